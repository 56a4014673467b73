package compile

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// httpRoutes compiles http[] for one port, seen from a gateway ("mesh" for
// sidecars). Each match block becomes a route; one that takes everything ends
// the list (VS4). applied is false when no block is meant for this proxy and
// port: Istio then does as if the VirtualService were not there.
func (b *builder) httpRoutes(vs *resource.VirtualService, port uint16, gateway string) (out []*ir.Route, applied bool) {
	rules := b.rules[vs]
	for i, rule := range rules {
		if len(rule.Match) == 0 {
			entry, _ := rule.origins()
			b.unreachable(rules[i+1:], entry)
			return append(out, b.httpRoute(rule, ir.RouteMatch{Origin: entry}, rule.Name, port, gateway)), true
		}
		for j, m := range rule.Match {
			if !b.applies(vs, m, port, gateway) {
				continue
			}
			applied = true
			name := rule.Name
			if m.Name != "" {
				name += "." + m.Name
			}
			match := compileMatch(m)
			match.Origin = rule.matchOrigin(j)
			b.checkClaims(rule, &match)
			r := b.httpRoute(rule, match, name, port, gateway)
			r.StatPrefix = m.StatPrefix
			out = append(out, r)
			if catchAllRank(r) == 0 {
				continue
			}
			if everywhere(m) {
				b.unreachable(rules[i+1:], match.Origin)
			}
			return out, true
		}
	}
	return out, applied
}

// matchOrigin is the line of match[j]; blocks that a delegate and its root made
// together are the delegate's entry.
func (r *httpRule) matchOrigin(j int) ir.Origin {
	if r.root == nil {
		return r.vs.At(at(r.path+".match", j))
	}
	return r.vs.At(r.path + ".match")
}

// unreachable warns of rules behind one that takes every request.
func (b *builder) unreachable(rules []*httpRule, by ir.Origin) {
	for _, r := range rules {
		b.report(resource.Warning, &r.vs.Meta, r.path, "can never be reached: "+by.String()+" takes every request before it", "move the rule without a match to the end")
	}
}

// everywhere: the block asks nothing of the proxy, so what it hides is hidden
// from every proxy.
func everywhere(m *networking.HTTPMatchRequest) bool {
	return m.Port == 0 && len(m.SourceLabels) == 0 && m.SourceNamespace == "" && len(m.Gateways) == 0
}

// applies evaluates what a match says of the proxy rather than the request
// (VS29). Where gateways are named, the labels and namespace of sidecars do not
// count, as in Istio.
func (b *builder) applies(vs *resource.VirtualService, m *networking.HTTPMatchRequest, port uint16, gateway string) bool {
	return (m.Port == 0 || m.Port == uint32(port)) && b.sourceApplies(vs, m.Gateways, m.SourceLabels, m.SourceNamespace, gateway)
}

func (b *builder) sourceApplies(vs *resource.VirtualService, gateways []string, labels map[string]string, namespace, gateway string) bool {
	if len(gateways) > 0 {
		return boundTo(gateways, gateway, vs.Namespace)
	}
	return subset(labels, b.node.Labels) && (namespace == "" || namespace == b.node.Namespace)
}

func compileMatch(m *networking.HTTPMatchRequest) ir.RouteMatch {
	var out ir.RouteMatch
	if m.Uri != nil {
		p := stringMatch(m.Uri)
		p.IgnoreCase = m.IgnoreUriCase && p.Kind != ir.Regex
		out.Path = &p
	}
	header := func(name string, sm *networking.StringMatch) {
		if sm != nil {
			out.Headers = append(out.Headers, ir.HeaderMatch{Name: name, Value: stringMatch(sm)})
		}
	}
	header(":method", m.Method)
	header(":scheme", m.Scheme)
	header(":authority", m.Authority)
	out.Claims = claimMatches(m)
	for _, name := range sortedKeys(m.Headers) {
		if resource.RoutingClaim(name) != nil {
			continue
		}
		// Keys such as "uri" are headers of that name: Istio's reference says that
		// they are ignored, Istio itself matches them.
		out.Headers = append(out.Headers, ir.HeaderMatch{Name: strings.ToLower(name), Value: stringMatch(m.Headers[name])})
	}
	for _, name := range sortedKeys(m.WithoutHeaders) {
		if resource.RoutingClaim(name) != nil {
			continue
		}
		v := stringMatch(m.WithoutHeaders[name])
		out.Headers = append(out.Headers, ir.HeaderMatch{Name: strings.ToLower(name), Value: v, Invert: true, TreatMissingAsEmpty: v.Kind != ir.Present})
	}
	for _, name := range sortedKeys(m.QueryParams) {
		out.Query = append(out.Query, ir.QueryMatch{Name: name, Value: stringMatch(m.QueryParams[name])})
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// stringMatch: an empty one tests for presence, and so does the regex "*",
// which is no RE2 (VS25).
func stringMatch(m *networking.StringMatch) ir.Match {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return ir.Match{Kind: ir.Exact, Value: t.Exact}
	case *networking.StringMatch_Prefix:
		return ir.Match{Kind: ir.Prefix, Value: t.Prefix}
	case *networking.StringMatch_Regex:
		if t.Regex != "*" {
			return ir.Match{Kind: ir.Regex, Value: t.Regex}
		}
	}
	return ir.Match{Kind: ir.Present}
}
