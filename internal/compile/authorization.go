package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// filters are the authorization steps of the workload's chains, in the order
// they run (AP1): CUSTOM, JWT, AUDIT, DENY, ALLOW. For TCP, attributes of requests
// drop out as AP10 says.
func (b *builder) filters(http bool) []ir.Filter {
	byAction := map[security.AuthorizationPolicy_Action][]*resource.AuthorizationPolicy{}
	for _, p := range b.set.AuthorizationPolicies {
		if b.attached(&p.Meta, p.Spec, b.node.Namespace, b.node.Labels, b.node.Type == ir.Router) {
			byAction[p.Spec.Action] = append(byAction[p.Spec.Action], p)
		}
	}
	out := b.customFilters(byAction[security.AuthorizationPolicy_CUSTOM], http)
	out = append(out, b.denied()...)
	out = append(out, b.tokens(http)...)
	out = append(out, b.rbac(byAction[security.AuthorizationPolicy_AUDIT], ir.Audit, http)...)
	out = append(out, b.rbac(byAction[security.AuthorizationPolicy_DENY], ir.Deny, http)...)
	return append(out, b.rbac(byAction[security.AuthorizationPolicy_ALLOW], ir.Allow, http)...)
}

// denied refuses everything to workloads whose security objects are broken.
func (b *builder) denied() []ir.Filter {
	for _, d := range b.set.Denied {
		if d.Kind != "PeerAuthentication" && (d.Namespace == b.node.Namespace || d.Namespace == b.rootNamespace()) && subset(d.MatchLabels, b.node.Labels) {
			return []ir.Filter{{RBAC: &ir.RBAC{Action: ir.Deny, Policies: []ir.Policy{{
				Name: fmt.Sprintf("ns[%s]-policy[%s]-rule[broken]", d.Namespace, d.Name), Permission: &ir.Expr{Op: ir.Any}, Principal: &ir.Expr{Op: ir.Any}, Origin: d.Origin()}}}}}
		}
	}
	return nil
}

// dryRun is the annotation that takes a policy out of force and has it
// evaluated all the same (AP15).
const dryRun = "istio.io/dry-run"

// rbac makes the step of one action; dry-run policies get a step of their own.
func (b *builder) rbac(list []*resource.AuthorizationPolicy, action ir.Action, http bool) []ir.Filter {
	live, shadow := &ir.RBAC{Action: action}, &ir.RBAC{Action: action, DryRun: true}
	any, anyShadow := false, false
	for _, p := range list {
		to := live
		if dry, _ := strconv.ParseBool(p.Annotations[dryRun]); dry {
			to, anyShadow = shadow, true
		} else {
			any = true
		}
		to.Policies = append(to.Policies, b.policies(p, action, http)...)
	}
	b.sortPolicies(live.Policies)
	b.sortPolicies(shadow.Policies)
	var out []ir.Filter
	if anyShadow {
		out = append(out, ir.Filter{RBAC: shadow})
	}
	if any && (action == ir.Allow || len(live.Policies) > 0) {
		out = append(out, ir.Filter{RBAC: live})
	}
	return out
}

// sortPolicies puts policies into the order in which Envoy tries them, by name:
// of several that match, the first is the one that is named. Those of the root
// namespace come first, as Istio gives them a filter of their own.
func (b *builder) sortPolicies(policies []ir.Policy) {
	root := "ns[" + b.rootNamespace() + "]"
	slices.SortStableFunc(policies, func(x, y ir.Policy) int {
		xRoot, yRoot := strings.HasPrefix(x.Name, root), strings.HasPrefix(y.Name, root)
		switch {
		case xRoot && !yRoot:
			return -1
		case yRoot && !xRoot:
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
}

// policies compiles the rules of one AuthorizationPolicy.
func (b *builder) policies(p *resource.AuthorizationPolicy, action ir.Action, http bool) []ir.Policy {
	var out []ir.Policy
	for i, r := range p.Spec.Rules {
		c := &ruleCompiler{Index: b.Index, policy: p, http: http, widen: action != ir.Allow, path: at("spec.rules", i)}
		permission, principal, ok := c.rule(r)
		if !ok {
			continue
		}
		out = append(out, ir.Policy{Name: fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", p.Namespace, p.Name, i), Permission: permission, Principal: principal, Origin: p.At(at("spec.rules", i))})
	}
	return out
}

// ruleCompiler compiles one rule. widen: the rule refuses (DENY, CUSTOM), so
// that an attribute that cannot be looked at makes it match more; an ALLOW
// rule with such an attribute never matches instead. Either way errs on the
// side of refusing.
type ruleCompiler struct {
	*Index
	policy *resource.AuthorizationPolicy
	http   bool
	widen  bool
	path   string
	never  bool
}

func (c *ruleCompiler) rule(r *security.Rule) (permission, principal *ir.Expr, ok bool) {
	var who, what []*ir.Expr
	if len(r.From) > 0 {
		var any []*ir.Expr
		for i, f := range r.From {
			any = append(any, c.source(f.Source, at(c.path+".from", i, "source")))
		}
		who = append(who, or(any))
	}
	if len(r.To) > 0 {
		var any []*ir.Expr
		for _, t := range r.To {
			any = append(any, c.operation(t.Operation))
		}
		what = append(what, or(any))
	}
	for i, w := range r.When {
		e, asks := c.condition(w, at(c.path+".when", i))
		if asks {
			what = append(what, e)
		} else {
			who = append(who, e)
		}
	}
	return and(what), and(who), !c.never
}

// field makes (v1 or v2 …) and not (n1 or n2 …). needHTTP attributes cannot be
// seen on a TCP connection.
func (c *ruleCompiler) field(values, nots []string, needHTTP bool, leaf func(string) *ir.Expr) *ir.Expr {
	if len(values)+len(nots) == 0 {
		return nil
	}
	if needHTTP && !c.http {
		c.never = c.never || !c.widen
		return nil
	}
	var out []*ir.Expr
	for i, list := range [][]string{values, nots} {
		if len(list) == 0 {
			continue
		}
		var any []*ir.Expr
		for _, v := range list {
			any = append(any, leaf(v))
		}
		e := or(any)
		if i == 1 {
			e = &ir.Expr{Op: ir.Not, Args: []*ir.Expr{e}}
		}
		out = append(out, e)
	}
	return and(out)
}

func (c *ruleCompiler) unsupportedField(path string) {
	c.never = c.never || !c.widen
	c.report(resource.Error, &c.policy.Meta, path, "not supported yet; the rule errs on the side of refusing", "")
}

func (c *ruleCompiler) source(s *security.Source, path string) *ir.Expr {
	return and([]*ir.Expr{
		c.field(c.expandPrincipals(s.Principals), c.expandPrincipals(s.NotPrincipals), false, c.principal),
		c.field(s.RequestPrincipals, s.NotRequestPrincipals, true, requestPrincipal),
		c.field(s.Namespaces, s.NotNamespaces, false, namespaceLeaf),
		c.field(s.ServiceAccounts, s.NotServiceAccounts, false, c.serviceAccount),
		c.field(c.expandTrustDomains(s.TrustDomains), c.expandTrustDomains(s.NotTrustDomains), false, trustDomainLeaf),
		c.field(s.IpBlocks, s.NotIpBlocks, false, cidr(ir.AttrSourceIP)),
		c.field(s.RemoteIpBlocks, s.NotRemoteIpBlocks, false, cidr(ir.AttrRemoteIP)),
	})
}

func (c *ruleCompiler) operation(o *security.Operation) *ir.Expr {
	host := func(v string) *ir.Expr {
		e := text(ir.AttrHost, v)
		e.Value.IgnoreCase = e.Value.Kind != ir.Present
		return e
	}
	path := func(v string) *ir.Expr {
		if strings.Contains(v, "{*") {
			return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPath, Value: ir.Match{Kind: ir.Template, Value: v}}
		}
		return text(ir.AttrPath, v)
	}
	return and([]*ir.Expr{
		c.field(o.Hosts, o.NotHosts, true, host),
		c.field(o.Ports, o.NotPorts, false, port),
		c.field(o.Methods, o.NotMethods, true, func(v string) *ir.Expr { return text(ir.AttrMethod, v) }),
		c.field(o.Paths, o.NotPaths, true, path),
	})
}

// condition compiles when[]; asks: it belongs to what is asked, not to who.
func (c *ruleCompiler) condition(w *security.Condition, path string) (e *ir.Expr, asks bool) {
	if leaf := tokenLeaf(w.Key); leaf != nil {
		return c.field(w.Values, w.NotValues, true, leaf), false
	}
	key, arg, _ := strings.Cut(w.Key, "[")
	arg = strings.ToLower(strings.TrimSuffix(arg, "]"))
	switch key {
	case "request.headers":
		return c.field(w.Values, w.NotValues, true, func(v string) *ir.Expr {
			e := text(ir.AttrHeader, v)
			e.Key = arg
			return e
		}), true
	case "source.ip":
		return c.field(w.Values, w.NotValues, false, cidr(ir.AttrSourceIP)), false
	case "remote.ip":
		return c.field(w.Values, w.NotValues, false, cidr(ir.AttrRemoteIP)), false
	case "source.namespace":
		return c.field(w.Values, w.NotValues, false, namespaceLeaf), false
	case "source.principal":
		return c.field(c.expandPrincipals(w.Values), c.expandPrincipals(w.NotValues), false, c.principal), false
	case "source.serviceAccount":
		return c.field(w.Values, w.NotValues, false, c.serviceAccount), false
	case "source.trustDomain":
		return c.field(c.expandTrustDomains(w.Values), c.expandTrustDomains(w.NotValues), false, trustDomainLeaf), false
	case "destination.ip":
		return c.field(w.Values, w.NotValues, false, cidr(ir.AttrDestinationIP)), true
	case "destination.port":
		return c.field(w.Values, w.NotValues, false, port), true
	case "connection.sni":
		return c.field(w.Values, w.NotValues, false, func(v string) *ir.Expr { return text(ir.AttrSNI, v) }), true
	}
	c.unsupportedField(path + ".key")
	return nil, true
}

// principal: values are written without the scheme (AP7).
func (c *ruleCompiler) principal(v string) *ir.Expr {
	switch {
	case v == "*":
		return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: ir.Match{Kind: ir.Present}}
	case strings.HasPrefix(v, "*"):
		return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: ir.Match{Kind: ir.Suffix, Value: v[1:]}}
	case strings.HasSuffix(v, "*"):
		return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: ir.Match{Kind: ir.Prefix, Value: "spiffe://" + v[:len(v)-1]}}
	}
	return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: ir.Match{Kind: ir.Exact, Value: "spiffe://" + v}}
}

func (c *ruleCompiler) serviceAccount(v string) *ir.Expr {
	ns, sa, ok := strings.Cut(v, "/")
	if !ok {
		ns, sa = c.policy.Namespace, v
	}
	return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: ir.Match{Kind: ir.Suffix, Value: "/ns/" + ns + "/sa/" + sa}}
}

// namespaceLeaf finds the namespace inside the SPIFFE ID, without a regular
// expression where the value has the usual forms.
func namespaceLeaf(v string) *ir.Expr {
	m := ir.Match{Kind: ir.Contains, Value: "/ns/" + v + "/sa/"}
	switch {
	case v == "*":
		m = ir.Match{Kind: ir.Present}
	case strings.Contains(strings.TrimSuffix(strings.TrimPrefix(v, "*"), "*"), "*") || strings.HasPrefix(v, "*") && strings.HasSuffix(v, "*"):
		// In namespaces Istio takes every star for "any text".
		m = ir.Match{Kind: ir.Regex, Value: ".*/ns/" + strings.ReplaceAll(regexp.QuoteMeta(v), `\*`, ".*") + "/.*"}
	case strings.HasSuffix(v, "*"):
		m.Value = "/ns/" + v[:len(v)-1]
	case strings.HasPrefix(v, "*"):
		m.Value = v[1:] + "/sa/"
	}
	return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: m}
}

// trustDomainLeaf finds the trust domain at the front of the SPIFFE ID.
func trustDomainLeaf(v string) *ir.Expr {
	m := ir.Match{Kind: ir.Prefix, Value: "spiffe://" + v + "/"}
	switch {
	case v == "*":
		m = ir.Match{Kind: ir.Present}
	case strings.HasSuffix(v, "*"):
		m.Value = "spiffe://" + v[:len(v)-1]
	case strings.HasPrefix(v, "*"):
		m = ir.Match{Kind: ir.Contains, Value: v[1:] + "/ns/"}
	}
	return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: m}
}

func cidr(attr ir.Attr) func(string) *ir.Expr {
	return func(v string) *ir.Expr { return &ir.Expr{Op: ir.Leaf, Attr: attr, CIDR: v} }
}

func port(v string) *ir.Expr {
	n, _ := strconv.ParseUint(v, 10, 16) // validated with the object
	return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrDestinationPort, Port: uint16(n)}
}

// text compiles exact, abc*, *abc and * (AP6).
func text(attr ir.Attr, v string) *ir.Expr {
	m := ir.Match{Kind: ir.Exact, Value: v}
	switch {
	case v == "*":
		m = ir.Match{Kind: ir.Present}
	case strings.HasPrefix(v, "*"):
		m = ir.Match{Kind: ir.Suffix, Value: v[1:]}
	case strings.HasSuffix(v, "*"):
		m = ir.Match{Kind: ir.Prefix, Value: v[:len(v)-1]}
	}
	return &ir.Expr{Op: ir.Leaf, Attr: attr, Value: m}
}

func and(list []*ir.Expr) *ir.Expr { return combine(ir.And, list) }
func or(list []*ir.Expr) *ir.Expr  { return combine(ir.Or, list) }

// combine drops what is nil ("any") and unwraps single terms. An OR with an
// "any" in it is "any".
func combine(op ir.ExprOp, list []*ir.Expr) *ir.Expr {
	var kept []*ir.Expr
	for _, e := range list {
		switch {
		case e != nil && e.Op != ir.Any:
			kept = append(kept, e)
		case op == ir.Or:
			return &ir.Expr{Op: ir.Any}
		}
	}
	switch len(kept) {
	case 0:
		return &ir.Expr{Op: ir.Any}
	case 1:
		return kept[0]
	}
	return &ir.Expr{Op: op, Args: kept}
}
