package compile

import (
	"slices"
	"strconv"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// RouteView is a VirtualService that a service's callers meet. Seen is by whom:
// "sidecars", "sidecars that call HOST", "gateway NAME"; or why nobody does.
type RouteView struct {
	Origin ir.Origin `json:"origin"`
	Seen   []string  `json:"seenBy"`
}

// routesOf are the VirtualServices that name the service, or lead to it from
// another host or a gateway.
func (x *Index) routesOf(s *service) []RouteView {
	out := []RouteView{}
	best, rivals := x.claims(s.host, s.Namespace)
	for _, vs := range x.set.VirtualServices {
		v := RouteView{Origin: vs.Origin()}
		leads := x.leadsTo(vs, s)
		switch {
		case vs == best || x.addsL4(vs, s):
			v.Seen = append(v.Seen, "sidecars")
		case slices.ContainsFunc(rivals, func(c claim) bool { return c.vs == vs }):
			v.Seen = append(v.Seen, "no sidecar: "+best.Namespace+"/"+best.Name+" names the host too and is older")
		case leads && boundTo(vs.Spec.Gateways, "mesh", vs.Namespace):
			for _, h := range vs.Spec.Hosts {
				v.Seen = append(v.Seen, "sidecars that call "+h)
			}
		}
		for _, g := range vs.Spec.Gateways {
			if leads && g != "mesh" {
				v.Seen = append(v.Seen, "gateway "+g)
			}
		}
		if len(v.Seen) > 0 {
			out = append(out, v)
		}
	}
	return out
}

// addsL4 reports whether the VirtualService has tcp or tls routes for the
// service: unlike http routes they add up with those of others (l4Chains).
func (x *Index) addsL4(vs *resource.VirtualService, s *service) bool {
	return len(vs.Spec.Tcp)+len(vs.Spec.Tls) > 0 && boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) && x.virtualServiceVisible(vs, s.Namespace) && namesHost(vs, s.host)
}

// leadsTo reports whether a route of the VirtualService forwards to the service.
func (x *Index) leadsTo(vs *resource.VirtualService, s *service) bool {
	for _, r := range x.rules[vs] {
		owner, _ := r.owner("route")
		for _, d := range r.Route {
			if fqdn(d.Destination.GetHost(), owner.Namespace) == s.host {
				return true
			}
		}
	}
	var l4 []*networking.RouteDestination
	for _, r := range vs.Spec.Tcp {
		l4 = append(l4, r.Route...)
	}
	for _, r := range vs.Spec.Tls {
		l4 = append(l4, r.Route...)
	}
	return slices.ContainsFunc(l4, func(d *networking.RouteDestination) bool {
		return fqdn(d.Destination.GetHost(), vs.Namespace) == s.host
	})
}

// RuleView is a DestinationRule in force for a service: Says are the blocks of
// its trafficPolicy.
type RuleView struct {
	Origin  ir.Origin    `json:"origin"`
	Says    []string     `json:"says,omitempty"`
	Subsets []SubsetView `json:"subsets,omitempty"`
}

// SubsetView is a subset with the number of workloads in it.
type SubsetView struct {
	Name      string    `json:"name"`
	Origin    ir.Origin `json:"origin"`
	Workloads int       `json:"workloads"`
}

// callersRule is the rule for callers of the service's namespace, but those that
// a workloadSelector singles out.
func (x *Index) callersRule(s *service) *rule {
	return x.lookUpRule(s, s.Namespace, func(*resource.DestinationRule) bool { return false })
}

// rulesFor is callersRule, object by object where several make it up.
func (x *Index) rulesFor(s *service, instances []*resource.Workload) []RuleView {
	out := []RuleView{}
	r := x.callersRule(s)
	if r == nil {
		return out
	}
	of := func(dr *resource.DestinationRule) *RuleView {
		i := slices.IndexFunc(out, func(v RuleView) bool { return v.Origin == dr.Origin() })
		if i < 0 {
			i = len(out)
			out = append(out, RuleView{Origin: dr.Origin()})
		}
		return &out[i]
	}
	of(r.DestinationRule)
	of(r.policyFrom).Says = trafficBlocks(r.policyFrom.Spec.TrafficPolicy)
	for _, sub := range r.subsets {
		v := of(sub.from)
		sv := SubsetView{Name: sub.Name, Origin: sub.from.At(at("spec.subsets", sub.index))}
		for _, w := range instances {
			if subset(sub.Labels, w.Labels) {
				sv.Workloads++
			}
		}
		v.Subsets = append(v.Subsets, sv)
	}
	return out
}

func trafficBlocks(t *networking.TrafficPolicy) []string {
	var out []string
	for _, b := range []struct {
		name string
		set  bool
	}{
		{"connectionPool", t.GetConnectionPool() != nil}, {"loadBalancer", t.GetLoadBalancer() != nil}, {"outlierDetection", t.GetOutlierDetection() != nil},
		{"tls " + t.GetTls().GetMode().String(), t.GetTls() != nil}, {"portLevelSettings", len(t.GetPortLevelSettings()) > 0},
		{"tunnel", t.GetTunnel() != nil}, {"proxyProtocol", t.GetProxyProtocol() != nil}, {"retryBudget", t.GetRetryBudget() != nil},
	} {
		if b.set {
			out = append(out, b.name)
		}
	}
	return out
}

// PolicyView is a security object in force at workloads. Action is that of an
// AuthorizationPolicy, "JWT" of a RequestAuthentication and "REFUSES ALL" of an
// object that is broken.
type PolicyView struct {
	Action string    `json:"action"`
	DryRun bool      `json:"dryRun,omitempty"`
	Rules  int       `json:"rules"`
	Origin ir.Origin `json:"origin"`
	// Only are the workloads where it is in force, if not at all of them.
	Only []string `json:"only,omitempty"`
}

// policiesOf are the objects that are in force at some of the workloads; those
// without a proxy have none.
func (x *Index) policiesOf(workloads []*resource.Workload) []PolicyView {
	out := []PolicyView{}
	add := func(v PolicyView, covers func(*resource.Workload) bool) {
		for _, w := range workloads {
			if (w.Sidecar || w.Gateway) && covers(w) {
				v.Only = append(v.Only, w.Name)
			}
		}
		if len(v.Only) == 0 {
			return
		}
		if len(v.Only) == len(workloads) {
			v.Only = nil
		}
		out = append(out, v)
	}
	for _, d := range x.set.Denied {
		if d.Kind != "PeerAuthentication" { // that one shows as the mode STRICT
			add(PolicyView{Action: "REFUSES ALL", Origin: d.Origin()}, func(w *resource.Workload) bool {
				return (d.Namespace == w.Namespace || d.Namespace == x.rootNamespace()) && subset(d.MatchLabels, w.Labels)
			})
		}
	}
	for _, r := range x.set.RequestAuths {
		add(PolicyView{Action: "JWT", Rules: len(r.Spec.JwtRules), Origin: r.Origin()}, func(w *resource.Workload) bool {
			return x.attached(&r.Meta, r.Spec, w.Namespace, w.Labels, w.Gateway)
		})
	}
	for _, p := range x.set.AuthorizationPolicies {
		dry, _ := strconv.ParseBool(p.Annotations[dryRun])
		add(PolicyView{Action: p.Spec.Action.String(), DryRun: dry, Rules: len(p.Spec.Rules), Origin: p.Origin()}, func(w *resource.Workload) bool { return x.covers(p, w) })
	}
	return out
}
