package resource

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1beta1"
	typev1 "istio.io/api/type/v1beta1"
)

func (o *object) selector(s *typev1.WorkloadSelector) {
	for _, k := range sortedKeys(s.GetMatchLabels()) {
		if k == "" || strings.Contains(k, "*") || strings.Contains(s.MatchLabels[k], "*") {
			o.fail("spec.selector.matchLabels", "labels may be neither empty nor wildcards")
		}
	}
}

// targets: what an object holds for, workloads or Gateways by name.
func (o *object) targets(s *typev1.WorkloadSelector, one *typev1.PolicyTargetReference, list []*typev1.PolicyTargetReference) {
	o.selector(s)
	if s != nil && (one != nil || len(list) > 0) {
		o.fail("spec.selector", "only one of selector, targetRef and targetRefs may be set")
	}
	if len(list) > 16 || one != nil && len(list) > 0 {
		o.fail("spec.targetRefs", "at most 16 targets, in either targetRef or targetRefs")
	}
	for i, r := range append(slices.Clone(list), one) {
		if r != nil && (r.Namespace != "" && r.Namespace != o.Namespace || r.Kind == "" || r.Name == "") {
			o.fail(FieldPath("spec.targetRefs", i), "a target has a kind and a name, in the object's own namespace")
		}
	}
}

func validatePeerAuthentication(o *object, pa *security.PeerAuthentication) {
	o.selector(pa.Selector)
	if len(pa.PortLevelMtls) > 0 && len(pa.Selector.GetMatchLabels()) == 0 {
		o.fail("spec.portLevelMtls", "needs a selector: ports are the workload's")
	}
	for port := range pa.PortLevelMtls {
		o.portNumber(fmt.Sprintf("spec.portLevelMtls.%d", port), port)
	}
}

// conditionKeys that policies may test, by what their values are.
var conditionKeys = []string{"request.headers", "source.ip", "remote.ip", "source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal",
	"request.auth.principal", "request.auth.audiences", "request.auth.presenter", "request.auth.claims", "destination.ip", "destination.port", "connection.sni"}

func validateAuthorizationPolicy(o *object, p *security.AuthorizationPolicy) {
	custom := p.Action == security.AuthorizationPolicy_CUSTOM
	if custom != (p.GetProvider() != nil) {
		o.fail("spec.provider", "action CUSTOM needs a provider, and only it takes one")
	}
	if custom && p.GetProvider() != nil && p.GetProvider().Name == "" {
		o.fail("spec.provider.name", "a name is needed")
	}
	if (custom || p.Action == security.AuthorizationPolicy_DENY) && p.Rules == nil {
		o.fail("spec.rules", "action "+p.Action.String()+" without rules does nothing", "rules: [{}] matches every request")
	}
	o.targets(p.Selector, p.TargetRef, p.TargetRefs)
	if p.Action == security.AuthorizationPolicy_ALLOW && p.Rules == nil {
		o.warn("spec", "an ALLOW policy without rules refuses every request in its scope", "rules: [{}] allows all")
	}
	o.dryRun(p.Action)
	for i, r := range p.Rules {
		o.rule(FieldPath("spec.rules", i), r, custom)
	}
}

// dryRun checks the annotation that has a policy evaluated without being in
// force: Istio knows it for ALLOW and DENY only.
func (o *object) dryRun(action security.AuthorizationPolicy_Action) {
	text, ok := o.Annotations["istio.io/dry-run"]
	if !ok {
		return
	}
	dry, err := strconv.ParseBool(text)
	if err != nil {
		o.warn("metadata.annotations", fmt.Sprintf("istio.io/dry-run: %q is not a boolean: the policy is in force, as in Istio", text), `write "true"`)
	}
	if dry && action != security.AuthorizationPolicy_ALLOW && action != security.AuthorizationPolicy_DENY {
		o.fail("metadata.annotations", "istio.io/dry-run is for ALLOW and DENY policies only")
	}
}

func (o *object) rule(path string, r *security.Rule, custom bool) {
	if r == nil {
		o.fail(path, "a rule may not be null", "{} matches every request")
		return
	}
	for i, f := range r.From {
		o.source(FieldPath(path+".from", i, "source"), f.Source, custom)
	}
	for i, t := range r.To {
		o.operation(FieldPath(path+".to", i, "operation"), t.Operation)
	}
	for i, c := range r.When {
		o.condition(FieldPath(path+".when", i), c, custom)
	}
	if r.From != nil && len(r.From) == 0 || r.To != nil && len(r.To) == 0 {
		o.fail(path, "from and to may not be empty lists")
	}
}

func (o *object) source(path string, s *security.Source, custom bool) {
	if s == nil {
		o.fail(path, "a source is needed")
		return
	}
	lists := map[string][]string{
		"principals": s.Principals, "notPrincipals": s.NotPrincipals, "requestPrincipals": s.RequestPrincipals, "notRequestPrincipals": s.NotRequestPrincipals,
		"namespaces": s.Namespaces, "notNamespaces": s.NotNamespaces, "serviceAccounts": s.ServiceAccounts, "notServiceAccounts": s.NotServiceAccounts,
		"trustDomains": s.TrustDomains, "notTrustDomains": s.NotTrustDomains,
	}
	n := o.valueLists(path, lists)
	o.noScheme(path+".principals", s.Principals)
	o.noScheme(path+".notPrincipals", s.NotPrincipals)
	for name, values := range map[string][]string{"ipBlocks": s.IpBlocks, "notIpBlocks": s.NotIpBlocks, "remoteIpBlocks": s.RemoteIpBlocks, "notRemoteIpBlocks": s.NotRemoteIpBlocks} {
		n += len(values)
		for i, v := range values {
			o.cidr(FieldPath(path+"."+name, i), v)
		}
	}
	if n == 0 {
		o.fail(path, "a source needs at least one field", "leave from out to mean anyone")
	}
	for name, values := range map[string][]string{"serviceAccounts": s.ServiceAccounts, "notServiceAccounts": s.NotServiceAccounts} {
		o.serviceAccounts(path+"."+name, values)
	}
	if len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0 && len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces) > 0 {
		o.fail(path+".serviceAccounts", "cannot be combined with principals or namespaces")
	}
	if custom {
		for _, name := range sortedKeys(lists) {
			if len(lists[name]) > 0 {
				o.fail(path+"."+name, "CUSTOM policies may not match on identities", "Istio checks them after the external authorizer; use a DENY or ALLOW policy")
			}
		}
	}
}

// serviceAccounts are NAME or NAMESPACE/NAME, at most 16 of 320 bytes, as the
// API says.
func (o *object) serviceAccounts(path string, values []string) {
	if len(values) > 16 {
		o.fail(path, "at most 16 service accounts can be listed", "use namespaces, or several sources")
	}
	for i, v := range values {
		switch {
		case strings.Contains(v, "*"):
			o.fail(FieldPath(path, i), fmt.Sprintf("%q: service accounts have no wildcards", v), "use principals")
		case strings.Count(v, "/") > 1 || strings.HasPrefix(v, "/") || strings.HasSuffix(v, "/") || len(v) > 320:
			o.fail(FieldPath(path, i), fmt.Sprintf("%q is not a service account", v), "write NAME or NAMESPACE/NAME")
		}
	}
}

// noScheme: Istio puts the scheme in front itself, so a value that has one
// matches nobody.
func (o *object) noScheme(path string, values []string) {
	for i, v := range values {
		if strings.HasPrefix(v, "spiffe://") {
			o.warn(FieldPath(path, i), fmt.Sprintf("%q matches nobody, as in Istio", v), "write principals without spiffe://")
		}
	}
}

// valueLists checks lists of strings and returns how many values there are.
func (o *object) valueLists(path string, lists map[string][]string) (n int) {
	for _, name := range sortedKeys(lists) {
		n += len(lists[name])
		for i, v := range lists[name] {
			switch {
			case v == "":
				o.fail(FieldPath(path+"."+name, i), "a value may not be empty")
			case strings.Contains(strings.Trim(v, "*"), "*") && !strings.Contains(v, "{*") && !strings.HasSuffix(strings.ToLower(name), "namespaces"):
				o.warn(FieldPath(path+"."+name, i), "a * inside a value is an ordinary character", "only a leading or a trailing * is a wildcard")
			}
		}
	}
	return n
}

func (o *object) operation(path string, op *security.Operation) {
	if op == nil {
		o.fail(path, "an operation is needed")
		return
	}
	n := o.valueLists(path, map[string][]string{"hosts": op.Hosts, "notHosts": op.NotHosts, "methods": op.Methods, "notMethods": op.NotMethods, "paths": op.Paths, "notPaths": op.NotPaths})
	for name, values := range map[string][]string{"ports": op.Ports, "notPorts": op.NotPorts} {
		n += len(values)
		o.ports(path+"."+name, values)
	}
	if n == 0 {
		o.fail(path, "an operation needs at least one field", "leave to out to mean anything")
	}
	for name, values := range map[string][]string{"paths": op.Paths, "notPaths": op.NotPaths} {
		for i, v := range values {
			if why := badTemplate(v); why != "" {
				o.fail(FieldPath(path+"."+name, i), fmt.Sprintf("path template %q: %s", v, why))
			}
		}
	}
}

// badTemplate says what Istio refuses in a path that has operators; "" for
// nothing. An operator is a segment of its own, and {**} is the last one.
func badTemplate(v string) string {
	template := strings.Contains(v, "{*}") || strings.Contains(v, "{**}")
	rest := false // {**} was there
	for _, segment := range strings.Split(v, "/") {
		switch {
		case segment == "{*}" || segment == "{**}":
			if rest {
				return "no operator may follow {**}"
			}
			rest = segment == "{**}"
		case strings.ContainsAny(segment, "{}"):
			return "segment " + strconv.Quote(segment) + " is neither {*} nor {**}"
		case template && strings.Contains(segment, "*"):
			return "a * beside {*} and {**} has no meaning"
		}
	}
	return ""
}

func (o *object) condition(path string, c *security.Condition, custom bool) {
	key, _, bracket := strings.Cut(c.Key, "[")
	if c.Key == "" || !slices.Contains(conditionKeys, key) || (key == "request.headers" || key == "request.auth.claims") != bracket {
		o.fail(path+".key", fmt.Sprintf("%q is not a condition key", c.Key), didYouMean(key, conditionKeys))
		return
	}
	if bracket && !strings.HasSuffix(c.Key, "]") {
		o.fail(path+".key", fmt.Sprintf("%q lacks its closing bracket", c.Key))
	}
	if len(c.Values)+len(c.NotValues) == 0 {
		o.fail(path, "values or notValues is needed")
	}
	if custom && (strings.HasPrefix(key, "request.auth.") || slices.Contains([]string{"source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"}, key)) {
		o.fail(path+".key", "CUSTOM policies may not match on identities", "Istio checks them after the external authorizer; use a DENY or ALLOW policy")
	}
	for name, values := range map[string][]string{"values": c.Values, "notValues": c.NotValues} {
		switch {
		case strings.HasSuffix(key, ".ip"):
			for i, v := range values {
				o.cidr(FieldPath(path+"."+name, i), v)
			}
		case key == "destination.port":
			o.ports(path+"."+name, values)
		case key == "source.principal":
			o.noScheme(path+"."+name, values)
		}
	}
}

func (o *object) ports(path string, values []string) {
	for i, v := range values {
		if p, err := strconv.ParseUint(v, 10, 16); err != nil || p == 0 {
			o.fail(FieldPath(path, i), fmt.Sprintf("%q is not a port", v))
		}
	}
}

func (o *object) cidr(path, v string) {
	if _, err := netip.ParsePrefix(v); err == nil {
		return
	}
	if _, err := netip.ParseAddr(v); err != nil {
		o.fail(path, fmt.Sprintf("%q is neither an address nor a CIDR block", v))
	}
}
