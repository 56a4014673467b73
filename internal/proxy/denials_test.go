package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// A flood of denials is counted, and costs no more than what is kept.
func TestDenialsAreBounded(t *testing.T) {
	p := New(Options{})
	start := time.Unix(1_800_000_000, 0)
	kept := 0
	for second := range 10 {
		for range 3 * maxRecentRate {
			p.denials.count(&authz.Decision{Action: ir.Deny, Policy: "ns[a]-policy[b]-rule[0]"})
			if p.denials.due(start.Add(time.Duration(second) * time.Second)) {
				p.denials.keep(&Denial{ID: fmt.Sprint(kept), RequestID: "r" + fmt.Sprint(kept)})
				kept++
			}
		}
	}
	if kept != 10*maxRecentRate {
		t.Errorf("kept %d in 10 s, want %d", kept, 10*maxRecentRate)
	}
	all := p.Denials("")
	if len(all) != maxRecent || all[0].ID != fmt.Sprint(kept-1) || all[maxRecent-1].ID != fmt.Sprint(kept-maxRecent) {
		t.Errorf("%d remembered, from %s to %s", len(all), all[0].ID, all[len(all)-1].ID)
	}
	for _, id := range []string{fmt.Sprint(kept - 7), "r" + fmt.Sprint(kept-7)} {
		if found := p.Denials(id); len(found) != 1 || found[0].ID != fmt.Sprint(kept-7) {
			t.Errorf("%s: found %v", id, found)
		}
	}
	for i := range 2 * maxDenialNames {
		p.denials.count(&authz.Decision{Action: ir.Deny, Policy: fmt.Sprintf("ns[a]-policy[p%d]-rule[0]", i)})
	}
	if n := len(p.denials.counts); n > maxDenialNames+1 {
		t.Errorf("counts for %d policies", n)
	}
	var e telemetry.Exposition
	var text strings.Builder
	p.denials.collect(&e)
	_, _ = e.WriteTo(&text)
	if text := text.String(); !strings.Contains(text, `tulle_authorization_denied_total{action="DENY",namespace="a",policy="b",rule="0"} 1500`) {
		t.Errorf("metrics lack the denials of b:\n%.500s", text)
	}
}

func TestSplitPolicyName(t *testing.T) {
	for name, want := range map[string][3]string{
		"ns[a]-policy[b]-rule[0]":              {"a", "b", "0"},
		"ns[a]-policy[b]-rule[c]-rule[broken]": {"a", "b]-rule[c", "broken"},
		"":                                     {"", "none", ""},
		"other":                                {"", "other", ""},
		"ns[a]-rule[0]":                        {"", "ns[a]-rule[0]", ""},
	} {
		namespace, policy, rule := splitPolicyName(name)
		if got := [3]string{namespace, policy, rule}; got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// The caller that was not seen for longest makes room for a new one.
func TestEdgesAreBounded(t *testing.T) {
	p := New(Options{})
	open := func(i int) *Edge {
		at := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		return p.edges.open(edgeKey{source: at}, Edge{Source: at, Last: time.Unix(int64(i), 0)})
	}
	first := open(0)
	for i := 1; i <= maxEdges; i++ {
		open(i)
	}
	p.edges.close(first) // of an edge that is forgotten
	all := p.Edges()
	if len(all) != maxEdges || all[0].Source != netip.MustParseAddr("10.0.0.1") || all[0].Open != 1 || all[0].Connections != 1 {
		t.Errorf("%d edges, the first %+v", len(all), all[0])
	}
	open(1)
	if e := p.Edges()[0]; e.Open != 2 || e.Connections != 2 {
		t.Errorf("second connection: %+v", e)
	}
}
