package compile

import (
	"cmp"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwks"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// alwaysSplit are claims that Istio reads as lists wherever they are strings
// (RA5).
var alwaysSplit = []string{"permission", "scope"}

// tokenRule is one jwtRules[] entry.
type tokenRule struct {
	*security.JWTRule
	from *resource.RequestAuth
	path string
}

// tokenRules are the rules that cover the workload, by issuer: the union of
// its own, its namespace's and the mesh's (RA6).
func (b *builder) tokenRules() []tokenRule {
	var out []tokenRule
	for _, r := range b.set.RequestAuths {
		if !b.attached(&r.Meta, r.Spec, b.node.Namespace, b.node.Labels, b.node.Type == ir.Router) {
			continue
		}
		for i, j := range r.Spec.JwtRules {
			out = append(out, tokenRule{j, r, at("spec.jwtRules", i)})
		}
	}
	slices.SortStableFunc(out, func(a, c tokenRule) int { return cmp.Compare(a.Issuer, c.Issuer) })
	return out
}

// tokens is the JWT step of the workload's HTTP chains; none without rules.
func (b *builder) tokens(http bool) []ir.Filter {
	rules := b.tokenRules()
	if !http || len(rules) == 0 {
		return nil
	}
	out := &ir.JWT{ClearRouteCache: b.node.Type == ir.Router}
	for i, r := range rules {
		p := ir.JWTProvider{Name: "origins-" + itoa(i), Issuer: r.Issuer, Audiences: r.Audiences, FromParams: r.FromParams, FromCookies: r.FromCookies,
			Forward: r.ForwardOriginalToken, PayloadHeader: strings.ToLower(r.OutputPayloadToHeader), Origin: r.from.At(r.path)}
		for _, h := range r.FromHeaders {
			p.FromHeaders = append(p.FromHeaders, ir.JWTHeader{Name: strings.ToLower(h.Name), Prefix: h.Prefix})
		}
		for _, c := range r.OutputClaimToHeaders {
			p.ClaimHeaders = append(p.ClaimHeaders, ir.ClaimHeader{Header: strings.ToLower(c.Header), Claim: c.Claim})
		}
		p.SpaceDelimited = slices.Concat(alwaysSplit, r.SpaceDelimitedClaims)
		slices.Sort(p.SpaceDelimited)
		p.SpaceDelimited = slices.Compact(p.SpaceDelimited)
		b.keys(&p, r)
		out.Providers = append(out.Providers, p)
	}
	return []ir.Filter{{JWT: out}}
}

// keys fills in the issuer's keys: those in the rule, else those that the
// control plane has fetched. Without keys the issuer's tokens are refused.
func (b *builder) keys(p *ir.JWTProvider, r tokenRule) {
	if r.Jwks != "" { // validated with the object
		p.Keys = r.Jwks
		return
	}
	source := resource.KeySource(r.JWTRule)
	if p.Keys = b.set.KeySets[source].Document; p.Keys == "" {
		// Why is not for proxies: the reason may read otherwise at each try, and
		// every change of it would be a change of their configuration.
		p.KeysMissing = "the control plane has not fetched them from " + source.String()
	}
}

// checkRequestAuth names what of the kind is not supported, and keys that
// cannot be fetched.
func (x *Index) checkRequestAuth(r *resource.RequestAuth) {
	x.checkTargets(&r.Meta, r.Spec)
	for i, j := range r.Spec.JwtRules {
		set := x.set.KeySets[resource.KeySource(j)]
		if j.Jwks != "" || set.Error == "" {
			continue
		}
		field, then := "issuer", "its tokens are refused until they can"
		if j.JwksUri != "" {
			field = "jwksUri"
		}
		if set.Document != "" {
			then = "the last ones stay in use"
		}
		x.report(resource.Warning, &r.Meta, at("spec.jwtRules", i, field), "the issuer's keys cannot be fetched: "+set.Error+"; "+then, "")
	}
}

// checkPrincipals warns of a policy that asks for tokens which nothing
// verifies: to it, every request is without.
func (x *Index) checkPrincipals(p *resource.AuthorizationPolicy) {
	field := asksForToken(p.Spec)
	if field == "" || slices.ContainsFunc(x.set.RequestAuths, func(r *resource.RequestAuth) bool {
		return p.Namespace == x.rootNamespace() || r.Namespace == p.Namespace || r.Namespace == x.rootNamespace()
	}) {
		return
	}
	x.report(resource.Warning, &p.Meta, field, "no RequestAuthentication covers the workloads: no request has a verified token", "add one with the issuer of the tokens")
}

// asksForToken is the first field that looks at a token, "" for none.
func asksForToken(p *security.AuthorizationPolicy) string {
	for i, r := range p.Rules {
		for j, f := range r.From {
			if s := f.Source; len(s.RequestPrincipals) > 0 {
				return at("spec.rules", i, "from", j, "source.requestPrincipals")
			} else if len(s.NotRequestPrincipals) > 0 {
				return at("spec.rules", i, "from", j, "source.notRequestPrincipals")
			}
		}
		for j, w := range r.When {
			if strings.HasPrefix(w.Key, "request.auth.") {
				return at("spec.rules", i, "when", j, "key")
			}
		}
	}
	return ""
}

// requestPrincipal compiles issuer/subject. As in Istio the last slash
// divides, since issuers are URLs, and both parts must be there.
func requestPrincipal(v string) *ir.Expr {
	iss, sub := v, ""
	i := strings.LastIndexByte(v, '/')
	if i >= 0 {
		iss, sub = v[:i], v[i+1:]
	}
	present, exact := ir.Match{Kind: ir.Present}, func(s string) ir.Match { return ir.Match{Kind: ir.Exact, Value: s} }
	matchIss, matchSub := exact(iss), exact(sub)
	switch {
	case v == "*":
		matchIss, matchSub = present, present
	case strings.HasPrefix(v, "*") && i < 0:
		matchIss, matchSub = present, ir.Match{Kind: ir.Suffix, Value: v[1:]}
	case iss == "*":
		matchIss = present
	case strings.HasPrefix(v, "*"):
		matchIss = ir.Match{Kind: ir.Suffix, Value: iss[1:]}
	case strings.HasSuffix(v, "*") && i < 0:
		matchIss, matchSub = ir.Match{Kind: ir.Prefix, Value: v[:len(v)-1]}, present
	case sub == "*":
		matchSub = present
	case strings.HasSuffix(v, "*"):
		matchSub = ir.Match{Kind: ir.Prefix, Value: sub[:len(sub)-1]}
	}
	return and([]*ir.Expr{
		{Op: ir.Leaf, Attr: ir.AttrClaim, Key: "iss", Value: matchIss},
		{Op: ir.Leaf, Attr: ir.AttrClaim, Key: "sub", Value: matchSub},
	})
}

// tokenLeaf compiles one value of a request.auth.* condition; nil for another
// key.
func tokenLeaf(key string) func(v string) *ir.Expr {
	leaf := func(attr ir.Attr, path string) func(string) *ir.Expr {
		return func(v string) *ir.Expr {
			e := text(attr, v)
			e.Key = path
			return e
		}
	}
	switch key {
	case "request.auth.principal":
		return requestPrincipal
	case "request.auth.audiences":
		return leaf(ir.AttrAudience, "")
	case "request.auth.presenter":
		return leaf(ir.AttrPresenter, "")
	}
	if path, ok := strings.CutPrefix(key, "request.auth.claims["); ok {
		return leaf(ir.AttrClaim, strings.TrimSuffix(path, "]"))
	}
	return nil
}

// claimMatches compiles the conditions of a match block that look at the
// token's claims (VS31).
func claimMatches(m *networking.HTTPMatchRequest) []ir.ClaimMatch {
	var out []ir.ClaimMatch
	for i, headers := range []map[string]*networking.StringMatch{m.Headers, m.WithoutHeaders} {
		for _, name := range sortedKeys(headers) {
			if path := resource.RoutingClaim(name); path != nil {
				out = append(out, ir.ClaimMatch{Path: path, Value: stringMatch(headers[name]), Invert: i == 1})
			}
		}
	}
	return out
}

// checkClaims warns of routes by claim at a gateway that verifies no tokens
// (IST0149).
func (b *builder) checkClaims(r *httpRule, m *ir.RouteMatch) {
	if len(m.Claims) > 0 && b.node.Type == ir.Router && len(b.tokenRules()) == 0 {
		b.report(resource.Warning, &r.vs.Meta, r.path, "matches claims, but no RequestAuthentication covers the gateway "+b.node.WorkloadName+": no request there has a verified token", "add one that selects the gateway")
	}
}

// KeySources are where the keys of a set's rules are published; rules that
// bring their keys have none.
func KeySources(set *resource.Set) []jwks.Source {
	var out []jwks.Source
	for _, r := range set.RequestAuths {
		for _, j := range r.Spec.JwtRules {
			if j.Jwks == "" {
				out = append(out, resource.KeySource(j))
			}
		}
	}
	return out
}
