package compile

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// checkReferences warns of names that lead nowhere, where the set is a whole
// mesh: in a part of one they may be elsewhere.
func (x *Index) checkReferences() {
	if len(x.set.Workloads) == 0 {
		return
	}
	for _, vs := range x.set.VirtualServices {
		for i, name := range vs.Spec.Gateways {
			known := func(g *resource.Gateway) bool {
				return boundTo([]string{name}, g.Namespace+"/"+g.Name, vs.Namespace)
			}
			if name != "mesh" && !slices.ContainsFunc(x.set.Gateways, known) {
				x.report(resource.Warning, &vs.Meta, at("spec.gateways", i), "no Gateway "+name+": nobody uses the routes for it (IST0101)", "name it as NAMESPACE/NAME where it is in another namespace")
			}
		}
	}
	for _, dr := range x.set.DestinationRules {
		host := fqdn(dr.Spec.Host, dr.Namespace)
		if !x.anyService(host) {
			x.report(resource.Warning, &dr.Meta, "spec.host", "no service or ServiceEntry "+host+": the rule is nowhere in force (IST0101)", "")
		}
	}
	for _, g := range x.set.Gateways {
		if !slices.ContainsFunc(x.set.Workloads, func(w *resource.Workload) bool { return subset(g.Spec.Selector, w.Labels) }) {
			x.report(resource.Warning, &g.Meta, "spec.selector", "it selects no workload: nobody serves it (IST0101)", "")
		}
	}
}

// anyService reports whether a host, or one that a wildcard covers, is a
// service's.
func (x *Index) anyService(pattern string) bool {
	if x.byHost[pattern] != nil {
		return true
	}
	return strings.HasPrefix(pattern, "*") && slices.ContainsFunc(x.services, func(s *service) bool { return hostMatches(pattern, s.host) })
}
