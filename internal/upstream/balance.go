package upstream

import (
	"math/rand/v2"
	"net/netip"
	"sort"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Pick chooses a host. original is the connection's original destination, used
// by clusters of type ORIGINAL_DST. Hosts in avoid (those that earlier tries
// used) are passed over if another comes up within tries further draws, as
// Envoy's previous_hosts predicate does. nil: no healthy host.
func (c *Cluster) Pick(original netip.AddrPort, avoid []*Host, tries int) *Host {
	if c.conf.Load().Type == ir.OriginalDst {
		if !original.IsValid() {
			return nil
		}
		return c.original(original)
	}
	set := c.hosts.Load()
	h := c.draw(set)
	for ; h != nil && tries > 0 && contains(avoid, h); tries-- {
		h = c.draw(set)
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

func (c *Cluster) draw(set *hostSet) *Host {
	switch len(set.usable) {
	case 0:
		return nil
	case 1:
		return set.usable[0]
	}
	switch c.conf.Load().LB {
	case ir.RoundRobin:
		if set.weights == nil {
			return set.usable[c.next.Add(1)%uint64(len(set.usable))]
		}
		return set.random()
	case ir.Random:
		return set.random()
	}
	// Least request: the less busy of two random choices.
	a, b := set.random(), set.random()
	if b.active.Load() < a.active.Load() {
		return b
	}
	return a
}

// random draws by weight.
func (s *hostSet) random() *Host {
	if s.weights == nil {
		return s.usable[rand.IntN(len(s.usable))]
	}
	at := rand.Uint64N(s.weights[len(s.weights)-1])
	return s.usable[sort.Search(len(s.weights), func(i int) bool { return s.weights[i] > at })]
}
