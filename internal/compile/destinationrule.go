package compile

import (
	"maps"
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// rule is the DestinationRule that applies to a service, with what others for
// the same host add to it.
type rule struct {
	*resource.DestinationRule
	policyFrom *resource.DestinationRule // has the top-level trafficPolicy
	subsets    []ruleSubset
}

// ruleSubset is a subset with its place: spec.subsets[index] of from.
type ruleSubset struct {
	*networking.Subset
	from  *resource.DestinationRule
	index int
}

// ruleFor is the rule for a proxy's outbound traffic to a service; inboundRule
// the one for its own inbound traffic, where rules with a workloadSelector do
// not count (DR1).
func (b *builder) ruleFor(s *service, client string) *rule {
	return b.lookUpRule(s, client, func(dr *resource.DestinationRule) bool {
		return dr.Namespace == client && subset(dr.Spec.WorkloadSelector.GetMatchLabels(), b.node.Labels)
	})
}

func (b *builder) inboundRule(s *service) *rule {
	return b.lookUpRule(s, b.node.Namespace, func(*resource.DestinationRule) bool { return false })
}

// lookUpRule looks a DestinationRule up as Istio does: the client's namespace,
// then the service's, then the root namespace; the first that has a rule
// decides, with its most specific host. Clients of the root namespace only look
// at its private rules first, so that catch-alls for the mesh do not hide the
// services' own (DR2).
func (x *Index) lookUpRule(s *service, client string, selected func(*resource.DestinationRule) bool) *rule {
	root := x.rootNamespace()
	steps := []struct {
		namespace string
		private   bool
	}{{client, client == root}, {s.Namespace, false}, {root, false}}
	for _, step := range steps {
		candidates := x.rulesOf(step.namespace, s.host, client, step.private)
		if len(candidates) > 0 {
			return chooseRule(candidates, selected)
		}
	}
	return nil
}

// rulesOf are a namespace's rules for the most specific host that covers the
// service, oldest first.
func (x *Index) rulesOf(namespace, host, client string, private bool) []*resource.DestinationRule {
	var out []*resource.DestinationRule
	best := -1
	for _, dr := range x.set.DestinationRules {
		exportTo := x.ruleExport(dr)
		if dr.Namespace != namespace || !visible(exportTo, dr.Namespace, client) || private && !slices.Equal(exportTo, []string{"."}) {
			continue
		}
		pattern := fqdn(dr.Spec.Host, dr.Namespace)
		if !hostMatches(pattern, host) {
			continue
		}
		switch rank := specificity(pattern); {
		case rank > best:
			out, best = []*resource.DestinationRule{dr}, rank
		case rank == best:
			out = append(out, dr)
		}
	}
	return out
}

// ruleExport is the rule's exportTo, or the mesh's default for rules.
func (x *Index) ruleExport(dr *resource.DestinationRule) []string {
	if len(dr.Spec.ExportTo) > 0 {
		return dr.Spec.ExportTo
	}
	return x.mesh.DefaultDestinationRuleExportTo
}

// chooseRule merges rules for one host and chooses among what cannot be merged
// (DR3): a rule whose workloadSelector selects the proxy comes first, completed
// by the others with the same selector and then by the general ones. Rules that
// are exported differently stay apart; the youngest of them counts, as in Istio.
func chooseRule(candidates []*resource.DestinationRule, selected func(*resource.DestinationRule) bool) *rule {
	var general []*resource.DestinationRule
	var first *resource.DestinationRule
	for _, dr := range candidates {
		switch {
		case dr.Spec.WorkloadSelector == nil:
			general = append(general, dr)
		case first == nil && selected(dr):
			first = dr
		}
	}
	if len(general) > 0 {
		last := exportKey(general[len(general)-1])
		general = slices.DeleteFunc(general, func(dr *resource.DestinationRule) bool { return exportKey(dr) != last })
	}
	var parts []*resource.DestinationRule
	if first != nil {
		for _, dr := range candidates {
			if dr.Spec.WorkloadSelector != nil && maps.Equal(dr.Spec.WorkloadSelector.MatchLabels, first.Spec.WorkloadSelector.MatchLabels) {
				parts = append(parts, dr)
			}
		}
	}
	parts = append(parts, general...)
	if len(parts) == 0 {
		return nil
	}
	r := &rule{DestinationRule: parts[0], policyFrom: parts[0]}
	for _, dr := range parts {
		r.add(dr)
	}
	return r
}

func exportKey(dr *resource.DestinationRule) string {
	list := slices.Clone(dr.Spec.ExportTo)
	slices.Sort(list)
	key := ""
	for _, e := range slices.Compact(list) {
		key += e + ","
	}
	return key
}

// add completes the rule: subsets whose name is new, and the traffic policy if
// there is none yet. Each part keeps its own place.
func (r *rule) add(dr *resource.DestinationRule) {
	for i, s := range dr.Spec.Subsets {
		if r.subset(s.Name) == nil {
			r.subsets = append(r.subsets, ruleSubset{s, dr, i})
		}
	}
	if r.policyFrom.Spec.TrafficPolicy == nil && dr.Spec.TrafficPolicy != nil {
		r.policyFrom = dr
	}
}

// subset finds a subset by name.
func (r *rule) subset(name string) *ruleSubset {
	if r == nil {
		return nil
	}
	for i := range r.subsets {
		if r.subsets[i].Name == name {
			return &r.subsets[i]
		}
	}
	return nil
}

// policy is a TrafficPolicy after mesh, rule, port and subset were resolved,
// with the places that explain names.
type policy struct {
	pool                             *networking.ConnectionPoolSettings
	outlier                          *networking.OutlierDetection
	lb                               *networking.LoadBalancerSettings
	tls                              *networking.ClientTLSSettings
	tunnel                           *networking.TrafficPolicy_TunnelSettings
	proxyProtocol                    *networking.TrafficPolicy_ProxyProtocol
	budget                           *networking.TrafficPolicy_RetryBudget
	outlierAt, tlsAt, lbAt, tunnelAt ir.Origin
	from                             *resource.DestinationRule // of tls
	announcer                        *resource.DestinationRule // of proxyProtocol
	announcerPath                    string
	tlsPath                          string
}

// meshPolicy is the base that DestinationRules override block by block (DR8).
func (x *Index) meshPolicy() policy {
	d := x.mesh.GetDefaultTrafficPolicy()
	return policy{pool: d.GetConnectionPool(), outlier: d.GetOutlierDetection(), outlierAt: x.set.MeshFrom.At("data.mesh.defaultTrafficPolicy.outlierDetection")}
}

// policyFor resolves what applies to a port (and subset) of a service.
func (x *Index) policyFor(r *rule, port uint16, sub *ruleSubset) policy {
	p := x.meshPolicy()
	if r == nil {
		return p
	}
	base := p
	p = p.overlay(r.policyFrom.Spec.TrafficPolicy, r.policyFrom, "spec.trafficPolicy", port, base)
	if sub != nil {
		// A port entry of the subset replaces what the rule says, even where it
		// says nothing itself (DR7).
		p = p.overlay(sub.TrafficPolicy, sub.from, at("spec.subsets", sub.index)+".trafficPolicy", port, base)
	}
	return p
}

// overlay puts the blocks of t, which is at path of dr, over p. A port entry
// replaces pool, outlier, lb and tls: what it does not say comes from the
// mesh's base only, not from the destination level (DR6).
func (p policy) overlay(t *networking.TrafficPolicy, dr *resource.DestinationRule, path string, port uint16, base policy) policy {
	if t == nil {
		return p
	}
	if t.Tunnel != nil {
		p.tunnel, p.tunnelAt = t.Tunnel, dr.At(path+".tunnel")
	}
	if t.ProxyProtocol != nil {
		p.proxyProtocol, p.announcer, p.announcerPath = t.ProxyProtocol, dr, path
	}
	if t.RetryBudget != nil {
		p.budget = t.RetryBudget
	}
	for i, pl := range t.PortLevelSettings {
		if pl.GetPort().GetNumber() == uint32(port) {
			p.pool, p.outlier, p.outlierAt, p.lb, p.tls = base.pool, base.outlier, base.outlierAt, nil, nil
			return p.blocks(pl.ConnectionPool, pl.OutlierDetection, pl.LoadBalancer, pl.Tls, dr, at(path+".portLevelSettings", i))
		}
	}
	return p.blocks(t.ConnectionPool, t.OutlierDetection, t.LoadBalancer, t.Tls, dr, path)
}

// blocks overrides each block that is there, as a whole.
func (p policy) blocks(pool *networking.ConnectionPoolSettings, outlier *networking.OutlierDetection, lb *networking.LoadBalancerSettings,
	tls *networking.ClientTLSSettings, dr *resource.DestinationRule, path string) policy {
	if pool != nil {
		p.pool = pool
	}
	if outlier != nil {
		p.outlier, p.outlierAt = outlier, dr.At(path+".outlierDetection")
	}
	if lb != nil {
		p.lb, p.lbAt = lb, dr.At(path+".loadBalancer")
	}
	if tls != nil {
		p.tls, p.tlsAt, p.from, p.tlsPath = tls, dr.At(path+".tls"), dr, path+".tls"
	}
	return p
}
