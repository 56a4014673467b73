package upstream

import (
	"slices"
	"sort"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// overprovisioning is Envoy's factor in percent: a priority whose healthy hosts
// are 100/140 of all still carries everything.
const overprovisioning = 140

// level is the hosts of one priority that their source reports as healthy.
type level struct {
	priority uint32
	members  []*Host
	usable   []*Host // without the ejected
	load     uint64  // percent
	panics   bool    // members take the load instead of usable
}

// rebuildLocked recomputes which hosts take requests, and how much of them.
// c.mu is held.
func (c *Cluster) rebuildLocked(all []*Host) {
	conf := c.conf.Load()
	levels := levelsOf(all)
	spread(levels, conf.panicThreshold())
	c.hosts.Store(c.newSet(conf, all, levels))
}

// panicThreshold is the percentage of usable hosts below which the others serve too.
func (conf *config) panicThreshold() uint64 {
	if conf.Outlier == nil {
		return 0
	}
	return uint64(conf.Outlier.MinHealthPercent)
}

// newSet prepares drawing from levels whose load is known.
func (c *Cluster) newSet(conf *config, all []*Host, levels []*level) *hostSet {
	set := &hostSet{all: all, lb: conf.LB}
	for _, l := range levels {
		if l.load == 0 {
			continue
		}
		if l.panics {
			set.panics = true
			set.add(c.newGroup(conf, l.members, plainWeight), l.load)
			continue
		}
		c.addLevel(set, conf, l)
	}
	if len(set.groups) < 2 {
		set.upTo = nil
	}
	return set
}

func plainWeight(h *Host) float64 { return float64(h.weight()) }

func (s *hostSet) add(g *group, share uint64) {
	if share == 0 || len(g.hosts) == 0 {
		return
	}
	if n := len(s.upTo); n > 0 {
		share += s.upTo[n-1]
	}
	s.groups = append(s.groups, g)
	s.upTo = append(s.upTo, share)
}

// levelsOf sorts the hosts by priority. What its source reports as unhealthy is
// no member: Istio leaves such endpoints out, and they must not make a healthy
// priority look half dead.
func levelsOf(all []*Host) []*level {
	var levels []*level
	for _, h := range all {
		e := h.endpoint.Load()
		if e.Health != ir.Healthy {
			continue
		}
		var l *level
		for _, x := range levels {
			if x.priority == e.Priority {
				l = x
			}
		}
		if l == nil {
			l = &level{priority: e.Priority}
			levels = append(levels, l)
		}
		l.members = append(l.members, h)
		if !h.Ejected() {
			l.usable = append(l.usable, h)
		}
	}
	sort.Slice(levels, func(i, j int) bool { return levels[i].priority < levels[j].priority })
	return levels
}

// spread computes each priority's load as Envoy does: the first takes all that
// its healthy hosts can carry (with overprovisioning), the rest spills over.
// Below the panic threshold a priority uses all its members.
func spread(levels []*level, threshold uint64) {
	var total, members uint64
	health := make([]uint64, len(levels))
	for i, l := range levels {
		health[i] = min(100, overprovisioning*uint64(len(l.usable))/uint64(len(l.members)))
		total += health[i]
		members += uint64(len(l.members))
	}
	if len(levels) == 0 {
		return
	}
	total = min(100, total)
	allPanic := total < 100
	if total < 100 {
		for _, l := range levels {
			l.panics = 100*uint64(len(l.usable)) < threshold*uint64(len(l.members))
			allPanic = allPanic && l.panics
		}
	}
	left := uint64(100)
	if allPanic { // then the load follows the number of hosts
		for _, l := range levels {
			l.load = 100 * uint64(len(l.members)) / members
			left -= l.load
		}
		levels[0].load += left
		return
	}
	if total == 0 {
		return // nobody is left, and panic is off
	}
	first := -1
	for i, l := range levels {
		l.load = min(left, 100*health[i]/total)
		left -= l.load
		if first < 0 && l.load > 0 {
			first = i
		}
	}
	if first >= 0 {
		levels[first].load += left // rounding
	}
}

// addLevel adds the groups of a priority: one, or one for each locality where
// localities have weights.
func (c *Cluster) addLevel(set *hostSet, conf *config, l *level) {
	if !conf.LocalityWeighted && conf.ZoneAware == nil {
		set.add(c.newGroup(conf, l.usable, plainWeight), l.load)
		return
	}
	zones := zonesOf(l)
	if conf.ZoneAware != nil && l.priority == 0 {
		zoneAware(zones, conf.ZoneAware, len(l.usable))
	}
	var sum float64
	for _, z := range zones {
		sum += z.share
	}
	if sum == 0 {
		return
	}
	if conf.LB == ir.RingHash || conf.LB == ir.Maglev {
		// One table: the locality's share is part of each host's.
		share := map[*Host]float64{}
		for _, z := range zones {
			for _, h := range z.usable {
				share[h] = z.share / sum * float64(h.weight()) / z.weight
			}
		}
		// Who has none stays out: a ring is as large as its smallest share makes it.
		hosts := slices.DeleteFunc(slices.Clone(l.usable), func(h *Host) bool { return share[h] == 0 })
		set.add(c.newGroup(conf, hosts, func(h *Host) float64 { return share[h] }), l.load)
		return
	}
	const fine = 1 << 16 // so that small shares survive as whole numbers
	for _, z := range zones {
		set.add(c.newGroup(conf, z.usable, plainWeight), uint64(float64(l.load)*fine*z.share/sum))
	}
}

// zone is the hosts of one locality in one priority.
type zone struct {
	locality string
	usable   []*Host
	members  int
	weight   float64 // of usable
	share    float64 // of the priority's load, on any scale
}

// zonesOf groups a priority's hosts by locality. A locality's weight counts in
// full as long as its healthy hosts can carry it, by the same overprovisioning.
func zonesOf(l *level) []*zone {
	var zones []*zone
	byName := map[string]*zone{}
	for _, h := range l.members {
		e := h.endpoint.Load()
		z := byName[e.Locality]
		if z == nil {
			z = &zone{locality: e.Locality, share: float64(e.LocalityWeight)}
			byName[e.Locality] = z
			zones = append(zones, z)
		}
		z.members++
		if !h.Ejected() {
			z.usable = append(z.usable, h)
			z.weight += float64(h.weight())
		}
	}
	for _, z := range zones {
		z.share *= min(1, overprovisioning/100.0*float64(len(z.usable))/float64(z.members))
	}
	return zones
}

// zoneAware sets the shares as Envoy's zone aware routing does: the own zone
// gets as much of what this zone's callers send as it can carry in proportion
// to its hosts, the rest goes where hosts are in excess of callers. Without
// enough hosts or a host in the own zone the shares are the numbers of hosts.
func zoneAware(zones []*zone, conf *ir.ZoneAware, usable int) {
	for _, z := range zones {
		z.share = float64(len(z.usable))
	}
	var callers uint32
	for _, n := range conf.Callers {
		callers += n
	}
	var own *zone
	for _, z := range zones {
		if z.locality == conf.Locality && len(z.usable) > 0 {
			own = z
		}
	}
	if own == nil || uint64(usable) < conf.MinClusterSize || conf.Callers[conf.Locality] == 0 || len(zones) < 2 {
		return
	}
	calls := func(locality string) float64 { return float64(conf.Callers[locality]) / float64(callers) }
	hosts := func(z *zone) float64 { return float64(len(z.usable)) / float64(usable) }
	if hosts(own) >= calls(own.locality) {
		for _, z := range zones {
			if z != own {
				z.share = 0
			}
		}
		return
	}
	local := hosts(own) / calls(own.locality)
	var excess float64
	for _, z := range zones {
		if z != own {
			excess += max(0, hosts(z)-calls(z.locality))
		}
	}
	for _, z := range zones {
		switch {
		case z == own:
			z.share = local
		case excess > 0:
			z.share = (1 - local) * max(0, hosts(z)-calls(z.locality)) / excess
		}
	}
}
