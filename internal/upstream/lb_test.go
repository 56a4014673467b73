package upstream

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// cluster applies one static cluster with endpoints 10.0.0.1:80 and up.
func cluster(t testing.TB, c ir.Cluster, endpoints ...ir.Endpoint) *Cluster {
	t.Helper()
	s := New(Options{Resolver: &names{}})
	t.Cleanup(s.Close)
	return put(t, s, c, endpoints...)
}

func put(t testing.TB, s *Set, c ir.Cluster, endpoints ...ir.Endpoint) *Cluster {
	t.Helper()
	c.Name = "c"
	if c.Type == "" {
		c.Type = ir.Static
	}
	if c.Breaker == (ir.Breaker{}) {
		c.Breaker = ir.DefaultBreaker()
	}
	for i := range endpoints {
		if endpoints[i].Address == "" {
			endpoints[i].Address = fmt.Sprintf("10.0.0.%d:80", i+1)
		}
	}
	c.Endpoints = &ir.EndpointSet{Cluster: "c", Endpoints: endpoints}
	p, err := s.Prepare((&ir.Snapshot{Clusters: []*ir.Cluster{&c}}).Seal())
	if err != nil {
		t.Fatal(err)
	}
	return p.Commit()["c"]
}

func plain(n int) []ir.Endpoint { return make([]ir.Endpoint, n) }

// shares draws n times and returns each host's share in percent.
func shares(c *Cluster, n int) map[string]float64 {
	got := map[string]float64{}
	for range n {
		if h := c.Pick(netip.AddrPort{}, nil, 0); h != nil {
			got[h.Address] += 100 / float64(n)
		}
	}
	return got
}

func near(t *testing.T, what string, got, want, slack float64) {
	t.Helper()
	if math.Abs(got-want) > slack {
		t.Errorf("%s: %.1f %%, want %.1f", what, got, want)
	}
}

func TestWeights(t *testing.T) {
	endpoints := func() []ir.Endpoint { return []ir.Endpoint{{Weight: 1}, {Weight: 2}, {Weight: 7}} }
	for lb, want := range map[ir.LBPolicy][]float64{
		ir.RoundRobin:   {10, 20, 70},
		ir.LeastRequest: {10, 20, 70},
		ir.Random:       {33, 33, 33}, // knows no weights, as in Envoy
	} {
		got := shares(cluster(t, ir.Cluster{LB: lb}, endpoints()...), 6000)
		for i, w := range want {
			near(t, fmt.Sprint(lb, " host ", i+1), got[fmt.Sprintf("10.0.0.%d:80", i+1)], w, 4)
		}
	}
}

// Least request, weighted or not, turns away from busy hosts.
func TestLeastRequest(t *testing.T) {
	for name, endpoints := range map[string][]ir.Endpoint{"equal": plain(2), "weighted": {{Weight: 2}, {Weight: 1}}} {
		c := cluster(t, ir.Cluster{LB: ir.LeastRequest}, endpoints...)
		busy := c.Hosts()[0]
		for range 50 {
			busy.Begin()
		}
		if got := shares(c, 2000)[busy.Address]; got > 30 {
			t.Errorf("%s: the busy host gets %.0f %%", name, got)
		}
	}
}

func TestRoundRobinIsEven(t *testing.T) {
	c := cluster(t, ir.Cluster{LB: ir.RoundRobin}, plain(4)...)
	for addr, got := range shares(c, 400) {
		if got != 25 {
			t.Errorf("%s gets %v %%", addr, got)
		}
	}
}

// The same hash finds the same host; when a host leaves, only its hashes move.
func TestConsistentHash(t *testing.T) {
	for _, lb := range []ir.LBPolicy{ir.RingHash, ir.Maglev} {
		const keys = 2000
		s := New(Options{})
		t.Cleanup(s.Close)
		where := func(c *Cluster) []string {
			var out []string
			for i := range keys {
				out = append(out, c.PickBy(HashOf(fmt.Sprint("user", i)), netip.AddrPort{}, nil, 0).Address)
			}
			return out
		}
		five := func() []ir.Endpoint { return plain(5) }
		before := where(put(t, s, ir.Cluster{LB: lb}, five()...))
		again := where(put(t, s, ir.Cluster{LB: lb}, five()...))
		counts := map[string]int{}
		for i := range before {
			if before[i] != again[i] {
				t.Fatalf("%s: the same hash finds another host", lb)
			}
			counts[before[i]]++
		}
		for addr, n := range counts {
			near(t, fmt.Sprint(lb, " share of ", addr), 100*float64(n)/keys, 20, 6)
		}
		smaller := five()[:4]
		after := where(put(t, s, ir.Cluster{LB: lb}, smaller...))
		moved := 0
		for i := range before {
			if before[i] != after[i] && before[i] != "10.0.0.5:80" {
				moved++
			}
		}
		limit := 0 // the ring moves nothing else; maglev a little
		if lb == ir.Maglev {
			limit = keys * 5 / 100
		}
		if moved > limit {
			t.Errorf("%s: %d of %d hashes of hosts that stayed have moved", lb, moved, keys)
		}
	}
}

func TestConsistentHashRetriesElsewhere(t *testing.T) {
	for _, lb := range []ir.LBPolicy{ir.RingHash, ir.Maglev} {
		c := cluster(t, ir.Cluster{LB: lb, Hash: &ir.HashLB{MinRingSize: 64, TableSize: 251}}, plain(3)...)
		key := HashOf("user")
		first := c.PickBy(key, netip.AddrPort{}, nil, 0)
		second := c.PickBy(key, netip.AddrPort{}, []*Host{first}, 20)
		if second == first {
			t.Errorf("%s: twenty draws find nobody else", lb)
		}
		if again := c.PickBy(key, netip.AddrPort{}, []*Host{first}, 20); again != second {
			t.Errorf("%s: the second choice is not stable", lb)
		}
	}
}

func TestHashWeights(t *testing.T) {
	for _, lb := range []ir.LBPolicy{ir.RingHash, ir.Maglev} {
		c := cluster(t, ir.Cluster{LB: lb}, ir.Endpoint{Weight: 1}, ir.Endpoint{Weight: 3})
		near(t, string(lb), shares(c, 6000)["10.0.0.2:80"], 75, 6)
	}
}

// Envoy's example: of two priorities, one takes over in part as soon as less
// than 100/140 of the first are healthy.
func TestPrioritySpill(t *testing.T) {
	for _, tt := range []struct {
		healthy0, healthy1 int // of 10 each
		threshold          uint32
		first              float64
	}{
		{10, 10, 0, 100}, {8, 10, 0, 100}, {5, 10, 0, 70}, {1, 10, 0, 14}, {0, 10, 0, 0},
		{2, 2, 0, 50},
		{2, 2, 50, 50},  // panic in both: by the number of hosts
		{1, 10, 50, 14}, // the second carries everything: no panic
	} {
		var endpoints []ir.Endpoint
		for i := range 20 {
			endpoints = append(endpoints, ir.Endpoint{Priority: uint32(i / 10)})
		}
		c := cluster(t, ir.Cluster{LB: ir.Random, Outlier: &ir.Outlier{MaxEjectionPercent: 100, MinHealthPercent: tt.threshold}}, endpoints...)
		for i, h := range c.Hosts() {
			if i < 10 && i >= tt.healthy0 || i >= 10 && i-10 >= tt.healthy1 {
				h.ejected.Store(true)
			}
		}
		c.rebuild()
		var first float64
		for addr, share := range shares(c, 8000) {
			var n int
			fmt.Sscanf(addr, "10.0.0.%d:80", &n)
			if n <= 10 {
				first += share
			}
		}
		near(t, fmt.Sprintf("%+v", tt), first, tt.first, 4)
	}
}

func TestPanic(t *testing.T) {
	for _, threshold := range []uint32{0, 50} {
		c := cluster(t, ir.Cluster{LB: ir.Random, Outlier: &ir.Outlier{MinHealthPercent: threshold}}, plain(4)...)
		for _, h := range c.Hosts()[:3] {
			h.ejected.Store(true)
		}
		c.rebuild()
		if got, want := len(shares(c, 2000)), map[uint32]int{0: 1, 50: 4}[threshold]; got != want {
			t.Errorf("threshold %d: %d hosts take requests, want %d", threshold, got, want)
		}
	}
}

// An endpoint that is not ready takes nothing, and does not make its priority
// look half dead.
func TestUnreadyIsNoMember(t *testing.T) {
	c := cluster(t, ir.Cluster{LB: ir.Random}, ir.Endpoint{}, ir.Endpoint{Health: ir.Unhealthy}, ir.Endpoint{Priority: 1})
	if got := shares(c, 500)["10.0.0.1:80"]; got < 99.9 {
		t.Errorf("the ready endpoint of the first priority gets %v %%", got)
	}
}

func TestLocalityWeights(t *testing.T) {
	endpoints := func() []ir.Endpoint {
		return []ir.Endpoint{
			{Locality: "a", LocalityWeight: 80}, {Locality: "a", LocalityWeight: 80}, {Locality: "b", LocalityWeight: 20},
		}
	}
	for _, lb := range []ir.LBPolicy{ir.RoundRobin, ir.LeastRequest, ir.RingHash, ir.Maglev} {
		got := shares(cluster(t, ir.Cluster{LB: lb, LocalityWeighted: true}, endpoints()...), 6000)
		near(t, string(lb), got["10.0.0.3:80"], 20, 5)
		near(t, string(lb), got["10.0.0.1:80"], 40, 6)
	}
}

func TestZoneAware(t *testing.T) {
	zone := func(names ...string) (out []ir.Endpoint) {
		for _, n := range names {
			out = append(out, ir.Endpoint{Locality: n})
		}
		return out
	}
	conf := ir.ZoneAware{MinClusterSize: 4, Locality: "a", Callers: map[string]uint32{"a": 1, "b": 1}}
	local := func(endpoints []ir.Endpoint) float64 {
		c := cluster(t, ir.Cluster{LB: ir.Random, ZoneAware: &conf}, endpoints...)
		var sum float64
		for addr, share := range shares(c, 6000) {
			for i := range endpoints {
				if endpoints[i].Address == addr && endpoints[i].Locality == "a" {
					sum += share
				}
			}
		}
		return sum
	}
	near(t, "as many hosts as callers", local(zone("a", "a", "b", "b")), 100, 0.1)
	near(t, "too few hosts in the zone", local(zone("a", "b", "b", "b")), 50, 4)
	near(t, "a small cluster", local(zone("a", "b", "b")), 33, 4)
}

func TestWarmup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		defer s.Close()
		conf := ir.Cluster{LB: ir.RoundRobin, Warmup: &ir.Warmup{Duration: ir.Duration(10 * time.Second), MinPercent: 10, Aggression: 1}}
		old := put(t, s, conf, plain(1)...)
		wait(11 * time.Second)
		c := put(t, s, conf, plain(2)...)
		if c != old {
			t.Fatal("the cluster was replaced")
		}
		near(t, "at once", shares(c, 2200)["10.0.0.2:80"], 100*0.1/1.1, 3)
		wait(5 * time.Second)
		near(t, "half way", shares(c, 2000)["10.0.0.2:80"], 100*0.5/1.5, 3)
		wait(6 * time.Second)
		synctest.Wait()
		near(t, "warm", shares(c, 2000)["10.0.0.2:80"], 50, 1)
		if c.hosts.Load().groups[0].edf != nil {
			t.Error("the scheduler stays when nobody warms up any more")
		}
	})
}

// wait lets time pass inside synctest.
func wait(d time.Duration) { <-time.NewTimer(d).C }

// A zone whose callers all stay at home leaves the others without a share: they
// are in no table, and the table is of the usual size.
func TestHashingWithinTheOwnZone(t *testing.T) {
	for _, lb := range []ir.LBPolicy{ir.RingHash, ir.Maglev} {
		c := cluster(t, ir.Cluster{LB: lb, ZoneAware: &ir.ZoneAware{Locality: "a", Callers: map[string]uint32{"a": 1, "b": 1}}},
			ir.Endpoint{Locality: "a"}, ir.Endpoint{Locality: "a"}, ir.Endpoint{Locality: "b"}, ir.Endpoint{Locality: "b"})
		if got := shares(c, 1000); len(got) != 2 || got["10.0.0.3:80"]+got["10.0.0.4:80"] > 0 {
			t.Errorf("%s: %v", lb, got)
		}
		if r, ok := c.hosts.Load().groups[0].table.(*ring); ok && len(r.hashes) > 4*ir.DefaultRingSize {
			t.Errorf("a ring of %d entries", len(r.hashes))
		}
	}
}
