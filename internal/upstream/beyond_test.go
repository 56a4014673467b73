package upstream

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Three priorities of two hosts; every try fails. tried are the priorities of
// the tries so far, want those that the next may use.
func TestPickBeyond(t *testing.T) {
	for name, tt := range map[string]struct {
		ejected, tried, want []uint32
	}{
		"first try":                         {nil, nil, []uint32{0}},
		"after one try":                     {nil, []uint32{0}, []uint32{0}},
		"after two":                         {nil, []uint32{0, 0}, []uint32{1}},
		"after three":                       {nil, []uint32{0, 0, 1}, []uint32{1}},
		"after four":                        {nil, []uint32{0, 0, 1, 1}, []uint32{2}},
		"all were used: from the start":     {nil, []uint32{0, 0, 1, 1, 2, 2}, []uint32{0}},
		"and again after two more":          {nil, []uint32{0, 0, 1, 1, 2, 2, 0, 0}, []uint32{1}},
		"two at once":                       {nil, []uint32{0, 1}, []uint32{2}},
		"nobody is usable in the second":    {[]uint32{1}, []uint32{0, 0}, []uint32{2}},
		"only the used one is usable":       {[]uint32{1, 2}, []uint32{0, 0}, []uint32{0}},
		"the first is out, the second used": {[]uint32{0}, []uint32{1, 1}, []uint32{2}},
	} {
		for _, lb := range []ir.LBPolicy{ir.LeastRequest, ir.RingHash, ir.Maglev} {
			var endpoints []ir.Endpoint
			for i := range 6 {
				endpoints = append(endpoints, ir.Endpoint{Priority: uint32(i / 2)})
			}
			c := cluster(t, ir.Cluster{LB: lb, Hash: &ir.HashLB{MinRingSize: 64, TableSize: 251}}, endpoints...)
			var tried []*Host
			for _, h := range c.Hosts() {
				if slices.Contains(tt.ejected, h.endpoint.Load().Priority) {
					h.ejected.Store(true)
				}
			}
			c.rebuild()
			for _, p := range tt.tried {
				tried = append(tried, c.Hosts()[2*p])
			}
			seen := map[uint32]bool{}
			for range 200 {
				seen[c.PickBeyond(Hash{}, netip.AddrPort{}, tried, 0).endpoint.Load().Priority] = true
			}
			for p := range uint32(3) {
				if seen[p] != slices.Contains(tt.want, p) {
					t.Errorf("%s, %s: priority %d is used: %v", name, lb, p, seen[p])
				}
			}
		}
	}
}

// Retries leave the hosts as they are: what others draw does not change, and a
// host that is ejected meanwhile is not drawn.
func TestPickBeyondFollowsHealth(t *testing.T) {
	c := cluster(t, ir.Cluster{LB: ir.RoundRobin}, ir.Endpoint{}, ir.Endpoint{Priority: 1}, ir.Endpoint{Priority: 1})
	hosts := c.Hosts()
	tried := []*Host{hosts[0], hosts[0]}
	beyond := func() map[string]bool {
		seen := map[string]bool{}
		for range 50 {
			seen[c.PickBeyond(Hash{}, netip.AddrPort{}, tried, 0).Address] = true
		}
		return seen
	}
	if got := beyond(); len(got) != 2 || got[hosts[0].Address] {
		t.Fatalf("retries go to %v", got)
	}
	if got := shares(c, 100)[hosts[0].Address]; got < 99.9 {
		t.Errorf("first tries: %v %% stay in the first priority", got)
	}
	hosts[1].ejected.Store(true)
	c.rebuild()
	if got := beyond(); len(got) != 1 || !got[hosts[2].Address] {
		t.Errorf("with one of them ejected, retries go to %v", got)
	}
}
