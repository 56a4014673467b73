package upstream

import (
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Hash is what consistent hashing looks at. The zero Hash is none: RingHash
// and Maglev then choose at random, as Envoy does.
type Hash struct {
	Value uint64
	Set   bool
}

// Pick chooses a host for a request without a hash; see PickBy.
func (c *Cluster) Pick(original netip.AddrPort, avoid []*Host, tries int) *Host {
	return c.PickBy(Hash{}, original, avoid, tries)
}

// PickBy chooses a host. original is the connection's original destination, used
// by clusters of type ORIGINAL_DST. Hosts in avoid (those that earlier tries
// used) are passed over if another comes up within tries further draws, as
// Envoy's previous_hosts predicate does. nil: no healthy host.
func (c *Cluster) PickBy(key Hash, original netip.AddrPort, avoid []*Host, tries int) *Host {
	if c.conf.Load().Type == ir.OriginalDst {
		if !original.IsValid() {
			return nil
		}
		return c.original(original)
	}
	set := c.hosts.Load()
	h := set.draw(key, 0)
	if h == nil && c.awaitResolved() {
		set = c.hosts.Load()
		h = set.draw(key, 0)
	}
	return set.again(h, key, avoid, tries)
}

// again draws up to tries more times while h, the first draw, is in avoid.
func (s *hostSet) again(h *Host, key Hash, avoid []*Host, tries int) *Host {
	for attempt := uint64(1); h != nil && attempt <= uint64(max(tries, 0)) && contains(avoid, h); attempt++ {
		h = s.draw(key, attempt)
	}
	return h
}

func contains(hosts []*Host, h *Host) bool {
	for _, x := range hosts {
		if x == h {
			return true
		}
	}
	return false
}

// hostSet is replaced whole when endpoints, health or ejections change.
type hostSet struct {
	all    []*Host
	lb     ir.LBPolicy
	groups []*group // one in the usual case: the healthy hosts of the first priority
	upTo   []uint64 // cumulative shares of the groups; nil for one group
	panics bool     // too few hosts are healthy: unhealthy ones take requests too

	beyond map[uint64]*hostSet // for retries, without some priorities; guarded by the cluster's mu
}

// group is a set of hosts that one draw chooses from. Immutable but for its
// scheduler's state.
type group struct {
	hosts []*Host
	next  atomic.Uint64 // round robin position
	edf   *edf          // weights differ, or somebody warms up
	table table         // ring hash or maglev
}

// table finds the host of a hash; attempt counts further draws.
type table interface {
	lookup(hash, attempt uint64) *Host
}

func (s *hostSet) draw(key Hash, attempt uint64) *Host {
	hashing := s.lb == ir.RingHash || s.lb == ir.Maglev
	if hashing && !key.Set {
		key.Value = rand.Uint64()
	}
	g := s.choose(hashing, key.Value)
	if g == nil || len(g.hosts) == 0 {
		return nil
	}
	if len(g.hosts) == 1 {
		return g.hosts[0]
	}
	switch {
	case hashing:
		return g.table.lookup(key.Value, attempt)
	case g.edf != nil:
		return g.edf.pick()
	case s.lb == ir.RoundRobin:
		return g.hosts[g.next.Add(1)%uint64(len(g.hosts))]
	case s.lb == ir.Random:
		return g.hosts[rand.IntN(len(g.hosts))]
	}
	// Least request: the less busy of two random choices.
	a, b := g.hosts[rand.IntN(len(g.hosts))], g.hosts[rand.IntN(len(g.hosts))]
	if b.active.Load() < a.active.Load() {
		return b
	}
	return a
}

// choose draws a group by its share. A hash chooses by itself, so that equal
// hashes stay together across priorities too.
func (s *hostSet) choose(hashing bool, hash uint64) *group {
	if len(s.groups) == 0 {
		return nil
	}
	if s.upTo == nil {
		return s.groups[0]
	}
	total := s.upTo[len(s.upTo)-1]
	at := hash
	if !hashing {
		at = rand.Uint64()
	}
	at %= total
	for i, limit := range s.upTo {
		if at < limit {
			return s.groups[i]
		}
	}
	return s.groups[len(s.groups)-1]
}

// newGroup prepares drawing from hosts. share gives each host's weight.
func (c *Cluster) newGroup(conf *config, hosts []*Host, share func(*Host) float64) *group {
	g := &group{hosts: hosts}
	g.next.Store(rand.Uint64N(1 << 32)) // proxies that start together must not all begin with the same host
	if len(hosts) < 2 {
		return g
	}
	switch conf.LB {
	case ir.RingHash:
		g.table = newRing(hosts, share, conf.Hash)
	case ir.Maglev:
		g.table = newMaglev(hosts, share, conf.Hash)
	case ir.Random: // Envoy's random balancer knows no weights
	default:
		if c.warming(conf, hosts) || !equalWeights(hosts) {
			g.edf = newEDF(hosts, c.scheduleWeight(conf))
		}
	}
	return g
}

func equalWeights(hosts []*Host) bool {
	for _, h := range hosts {
		if h.weight() != hosts[0].weight() {
			return false
		}
	}
	return true
}

// scheduleWeight is what the scheduler goes by each time a host was chosen.
// Weighted least request divides by the requests in flight (Envoy's
// active_request_bias of 1).
func (c *Cluster) scheduleWeight(conf *config) func(*Host) float64 {
	warmup := conf.Warmup
	least := conf.LB != ir.RoundRobin
	return func(h *Host) float64 {
		w := float64(h.weight())
		if warmup != nil {
			w *= h.warmth(warmup)
		}
		if least {
			w /= float64(h.active.Load() + 1)
		}
		return w
	}
}
