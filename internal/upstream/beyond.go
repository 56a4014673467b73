package upstream

import "net/netip"

const (
	// priorityUpdate is how many tries go by before the priorities they used are
	// left (Envoy's update_frequency as Istio sets it).
	priorityUpdate = 2
	// maxBeyond bounds the sets that a host set keeps for retries, and
	// maxPriorities the priorities that they can tell apart.
	maxBeyond     = 16
	maxPriorities = 64
)

// PickBeyond is PickBy for a retry that also leaves the priorities that the
// tries before it used: each time two more tries have failed, the load is
// spread over the others, and over all of them again once none is left (Envoy's
// previous_priorities). tried are the hosts of all earlier tries, in order.
func (c *Cluster) PickBeyond(key Hash, original netip.AddrPort, tried []*Host, tries int) *Host {
	set := c.hosts.Load()
	if len(tried) < priorityUpdate || len(set.all) == 0 {
		return c.PickBy(key, original, tried, tries)
	}
	c.mu.Lock()
	set = c.beyondLocked(set, tried)
	c.mu.Unlock()
	return set.again(set.draw(key, 0), key, tried, tries)
}

// beyondLocked is set without the priorities that tried has used up.
func (c *Cluster) beyondLocked(set *hostSet, tried []*Host) *hostSet {
	levels := levelsOf(set.all)
	if len(levels) < 2 || len(levels) > maxPriorities {
		return set
	}
	out := usedUp(levels, tried)
	if out == 0 {
		return set
	}
	if have := set.beyond[out]; have != nil {
		return have
	}
	conf := c.conf.Load()
	spread(levels, conf.panicThreshold())
	var rest []*level
	var panics []bool // is of the cluster as a whole: what a retry leaves out does not make the rest ill
	for i, l := range levels {
		if out&(1<<i) == 0 {
			rest, panics = append(rest, l), append(panics, l.panics)
		}
	}
	spread(rest, 0)
	for i, l := range rest {
		l.panics = panics[i]
	}
	next := c.newSet(conf, set.all, rest)
	if set.beyond == nil || len(set.beyond) >= maxBeyond {
		set.beyond = map[uint64]*hostSet{}
	}
	set.beyond[out] = next
	return next
}

// usedUp are the levels to be left out, as bits. When nothing usable is left,
// the tries so far are forgotten and the count begins anew.
func usedUp(levels []*level, tried []*Host) uint64 {
	var usable uint64
	at := make(map[uint32]uint64, len(levels))
	for i, l := range levels {
		at[l.priority] = 1 << i
		if len(l.usable) > 0 {
			usable |= 1 << i
		}
	}
	var out uint64
	for len(tried) >= priorityUpdate {
		for _, h := range tried[:priorityUpdate] {
			out |= at[h.endpoint.Load().Priority]
		}
		if usable&^out == 0 {
			out = 0
		}
		tried = tried[priorityUpdate:]
	}
	return out
}
