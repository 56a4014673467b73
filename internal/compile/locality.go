package compile

import (
	"math"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// localitySetting is the rule's, which replaces the mesh's whole; nil: off.
func (x *Index) localitySetting(lb *networking.LoadBalancerSettings) *networking.LocalityLoadBalancerSetting {
	s := lb.GetLocalityLbSetting()
	if s == nil {
		if s = x.mesh.LocalityLbSetting; s == nil {
			s = &networking.LocalityLoadBalancerSetting{} // Istio's default: enabled
		}
	}
	if s.Enabled != nil && !s.Enabled.Value {
		return nil
	}
	return s
}

// self is the proxy's own instance; nil for one that no source knows.
func (b *builder) self() *resource.Workload {
	for _, w := range b.set.Workloads {
		if w.Name == b.node.Name && w.Namespace == b.node.Namespace {
			return w
		}
	}
	return nil
}

// placed is an endpoint with the instance behind it.
type placed struct {
	endpoint *ir.Endpoint
	workload *resource.Workload
}

// localize orders a cluster's endpoints by what the locality settings say, seen
// from this proxy: weights (distribute), or priorities (failover), which need
// outlier detection, because without it nobody ever fails over.
func (b *builder) localize(c *ir.Cluster, lb *networking.LoadBalancerSettings, list []placed) []placed {
	s := b.localitySetting(lb)
	self := b.self()
	if self == nil {
		return list
	}
	if z := lb.GetZoneAwareLbSetting(); z.GetEnabled().GetValue() {
		byRegion(z, self, list)
		return list
	}
	if s == nil {
		return list
	}
	weigh(list)
	switch {
	case len(s.Distribute) > 0:
		return distribute(s.Distribute, self.Locality, list)
	case c.Outlier == nil:
		return list
	}
	if len(s.FailoverPriority) > 0 {
		byLabels(s.FailoverPriority, self, list)
		if len(s.Failover) > 0 {
			byLocality(s.Failover, self.Locality, list)
		}
	} else {
		byLocality(s.Failover, self.Locality, list)
	}
	weigh(list)
	return list
}

// weigh gives each locality of each priority the weight of its endpoints.
func weigh(list []placed) {
	type key struct {
		locality string
		priority uint32
	}
	sums := map[key]uint32{}
	for _, p := range list {
		sums[key{p.endpoint.Locality, p.endpoint.Priority}] += max(p.endpoint.Weight, 1)
	}
	for _, p := range list {
		p.endpoint.LocalityWeight = sums[key{p.endpoint.Locality, p.endpoint.Priority}]
	}
}

// distribute applies the first entry whose from covers the proxy's locality;
// localities that it does not name get nothing.
func distribute(entries []*networking.LocalityLoadBalancerSetting_Distribute, own string, list []placed) []placed {
	for _, d := range entries {
		if !localityMatches(d.From, own) {
			continue
		}
		assigned := map[string]bool{}
		// The most precise pattern has the first choice among localities.
		patterns := sortedKeys(d.To)
		slices.SortStableFunc(patterns, func(a, b string) int { return precision(b) - precision(a) })
		for _, pattern := range patterns {
			weights := map[string]uint32{}
			var total uint32
			for _, p := range list {
				loc := p.endpoint.Locality
				if _, seen := weights[loc]; !seen && !assigned[loc] && localityMatches(pattern, loc) {
					weights[loc] = p.endpoint.LocalityWeight
					total += p.endpoint.LocalityWeight
				}
			}
			for _, p := range list {
				if w, ok := weights[p.endpoint.Locality]; ok {
					p.endpoint.LocalityWeight = uint32(math.Ceil(float64(w) * float64(d.To[pattern]) / float64(total)))
				}
			}
			for loc := range weights {
				assigned[loc] = true
			}
		}
		return slices.DeleteFunc(list, func(p placed) bool { return !assigned[p.endpoint.Locality] || p.endpoint.LocalityWeight == 0 })
	}
	return list
}

func precision(pattern string) int {
	if strings.Contains(pattern, "*") {
		return strings.Count(pattern, "/")
	}
	return strings.Count(pattern, "/") + 4
}

// localityMatches compares region/zone/subzone; what the pattern leaves out, or
// writes as *, matches.
func localityMatches(pattern, locality string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(locality, "/")
	for i, w := range want {
		if w == "*" || w == "" && i > 0 {
			continue
		}
		if i >= len(have) || have[i] != w {
			return false
		}
	}
	return true
}

// byLocality sets priorities by how near an endpoint is: same subzone, zone,
// region, elsewhere; with a failover for the own region, only its target comes
// before the rest.
func byLocality(failover []*networking.LocalityLoadBalancerSetting_Failover, own string, list []placed) {
	region, _, _ := strings.Cut(own, "/")
	for _, p := range list {
		level := distance(own, p.endpoint.Locality)
		if level == 3 {
			for _, f := range failover {
				if f.From == region {
					if there, _, _ := strings.Cut(p.endpoint.Locality, "/"); there != f.To {
						level = 4
					}
					break
				}
			}
		}
		p.endpoint.Priority = p.endpoint.Priority*5 + level
	}
	compact(list)
}

func distance(a, b string) uint32 {
	x, y := strings.Split(a+"//", "/"), strings.Split(b+"//", "/")
	for i := range 3 {
		if x[i] != y[i] {
			return uint32(3 - i)
		}
	}
	return 0
}

// zoneAware counts the instances of the proxy's own service by locality: the
// callers among whom its zone's share is found.
func (b *builder) zoneAware(z *networking.ZoneAwareLoadBalancerSetting) *ir.ZoneAware {
	self := b.self()
	if self == nil || self.Locality == "" {
		return nil
	}
	out := &ir.ZoneAware{MinClusterSize: 6, Locality: self.Locality, Callers: map[string]uint32{}}
	if z.MinClusterSize != nil {
		out.MinClusterSize = uint64(z.MinClusterSize.Value)
	}
	for _, s := range b.services {
		if !slices.Contains(s.instances, self) {
			continue
		}
		for _, w := range s.instances {
			if w.Ready {
				out.Callers[w.Locality]++
			}
		}
		break // the oldest service is the proxy's own
	}
	return out
}

// byRegion sets priorities of zone aware balancing: the labels first, inside
// each of their tiers the own region before the others. Zones are left to the
// balancer.
func byRegion(z *networking.ZoneAwareLoadBalancerSetting, self *resource.Workload, list []placed) {
	if len(z.FailoverPriority) > 0 {
		byLabels(z.FailoverPriority, self, list)
	}
	own, _, _ := strings.Cut(self.Locality, "/")
	for _, p := range list {
		region, _, _ := strings.Cut(p.endpoint.Locality, "/")
		level := uint32(0)
		if region != own {
			level = 1
			for _, f := range z.Failover {
				if f.From == own {
					if f.To != region {
						level = 2
					}
					break
				}
			}
		}
		p.endpoint.Priority = p.endpoint.Priority*3 + level
	}
	compact(list)
}

// byLabels sets priorities by how many of the labels agree, in their order:
// "key" compares with the proxy's own value, "key=value" with that one.
func byLabels(priorities []string, self *resource.Workload, list []placed) {
	for _, p := range list {
		p.endpoint.Priority = 0
		for i, entry := range priorities {
			key, want, given := strings.Cut(entry, "=")
			if !given {
				want = topologyLabel(self, key)
			}
			if topologyLabel(p.workload, key) != want {
				p.endpoint.Priority = uint32(len(priorities) - i)
				break
			}
		}
	}
	compact(list)
}

// topologyLabel is a label of the instance, or what stands for one.
func topologyLabel(w *resource.Workload, key string) string {
	if w == nil {
		return ""
	}
	parts := strings.Split(w.Locality+"//", "/")
	switch key {
	case "topology.kubernetes.io/region":
		return parts[0]
	case "topology.kubernetes.io/zone":
		return parts[1]
	case "topology.istio.io/subzone":
		return parts[2]
	case "topology.istio.io/cluster":
		return w.ClusterID
	}
	return w.Labels[key]
}

// compact renumbers priorities from 0 without gaps, as Envoy requires.
func compact(list []placed) {
	var used []uint32
	for _, p := range list {
		used = append(used, p.endpoint.Priority)
	}
	slices.Sort(used)
	used = slices.Compact(used)
	for _, p := range list {
		i, _ := slices.BinarySearch(used, p.endpoint.Priority)
		p.endpoint.Priority = uint32(i)
	}
}
