package proxy

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// What the mesh answers itself can be asked about; what the application or
// policy answers is not a failure of the mesh.
func TestFailuresAreKept(t *testing.T) {
	line := func(n int) ir.Origin {
		return ir.Origin{Kind: "VirtualService", Name: "worker", File: "in.yaml", Line: n}
	}
	rule := ir.Origin{Kind: "DestinationRule", Name: "worker", File: "in.yaml", Line: 20}
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hangs := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	answers := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	}
	for name, tc := range map[string]struct {
		app   http.HandlerFunc
		edit  func(*mesh)
		flags string // "": nothing is kept
		hint  string
		lines []string
		tries int
	}{
		"200":           {app: answers(200)},
		"the app's 503": {app: answers(503)},
		"no route":      {edit: func(m *mesh) { m.route().Match.Path = &ir.Match{Kind: ir.Exact, Value: "/elsewhere"} }, flags: "NR", hint: noRoute.hint},
		"no endpoint":   {edit: func(m *mesh) { endpoints(m) }, flags: "UH", hint: noHealthy.hint, lines: []string{"route r:10", "traffic policy:20", "outlier detection:21"}},
		"timeout":       {app: hangs, edit: func(m *mesh) { m.route().Forward.Timeout = ir.Duration(20 * time.Millisecond) }, flags: "UT", hint: requestTimeout.hint, lines: []string{"route r, timeout 20ms:10", "traffic policy:20"}},
		"injected": {app: answers(200), edit: func(m *mesh) {
			m.route().Fault = &ir.Fault{Abort: &ir.FaultAbort{Status: 418, Share: 1_000_000, Origin: line(12)}}
		}, flags: "FI", hint: "the route injects an abort", lines: []string{"route r:10", "abort:12"}},
		"tries used up":  {app: answers(503), edit: retries(line(11), "5xx"), flags: "URX", hint: "the endpoint answered so, and no try is left", lines: []string{"route r:10", "retries:11", "traffic policy:20"}, tries: 2},
		"cannot connect": {edit: func(m *mesh) { endpoints(m, ir.Endpoint{Address: "127.0.0.1:1"}) }, flags: "UF", hint: connectFailure.hint, lines: []string{"route r:10", "traffic policy:20"}},
		"connection limit": {app: answers(200), edit: func(m *mesh) {
			m.snapA.Clusters[0].Breaker.MaxRequests = 0
			m.snapA.Clusters[0].Breaker.MaxPendingRequests = 0
		}, flags: "UO", hint: overflow.hint, lines: []string{"route r:10", "traffic policy:20"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, tc.app, func(m *mesh) {
				m.route().Name, m.route().Origin = "r", line(10)
				c := m.snapA.Clusters[0]
				c.PolicyFrom, c.OutlierFrom = rule, ir.Origin{Kind: "DestinationRule", Name: "worker", File: "in.yaml", Line: 21}
				if tc.edit != nil {
					tc.edit(m)
				}
			})
			resp, _ := m.get("/x?secret=1", sendHeader("x-request-id", "mine"))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			m.a.conns.each(func(d *downstream) { d.closeIfIdle() })
			if !m.a.conns.wait(ctx) { // the record comes after the answer
				t.Fatal("the connection does not end")
			}
			all := m.a.Failures("")
			if tc.flags == "" {
				if len(all) > 0 {
					t.Errorf("kept %+v", all[0])
				}
				return
			}
			if len(all) != 1 || len(m.a.Failures("other")) > 0 {
				t.Fatalf("%d failures are kept of %s", len(all), resp.Status)
			}
			f := all[0]
			if byID := m.a.Failures(f.ID); f.ID == "" || len(byID) != 1 || len(m.a.Failures("mine")) != 1 {
				t.Errorf("found %d by its id %q", len(byID), f.ID)
			}
			if f.Flags != tc.flags || f.Hint != tc.hint || f.Status != resp.StatusCode || f.Method != "GET" || f.Path != "/x" || !f.Outbound {
				t.Errorf("kept %+v", f)
			}
			var lines []string
			for _, l := range f.Lines {
				lines = append(lines, fmt.Sprintf("%s:%d", l.What, l.Origin.Line))
			}
			if !slices.Equal(lines, tc.lines) || len(f.Tries) != tc.tries {
				t.Errorf("lines %q, want %q; tries %+v, want %d", lines, tc.lines, f.Tries, tc.tries)
			}
		})
	}
}

func retries(o ir.Origin, on string) func(*mesh) {
	return func(m *mesh) {
		m.route().Forward.Retry = &ir.RetryPolicy{Attempts: 1, On: []string{on}, Origin: o}
	}
}

func endpoints(m *mesh, list ...ir.Endpoint) {
	m.snapA.Endpoints = []*ir.EndpointSet{{Cluster: "worker", Endpoints: list}}
}
