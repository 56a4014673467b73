package compile

import (
	"fmt"
	"slices"
	"strings"

	security "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// servedPort is a port of a kind of workload, as services lead there.
type servedPort struct {
	number   uint16
	protocol protocol
	mode     string // of mutual TLS
}

// checkPolicies warns where an AuthorizationPolicy is weaker, or refuses more,
// than its author may think. It judges what is in the set: a selector without
// workloads is only worth a word where workloads are known.
func (x *Index) checkPolicies() {
	if len(x.set.AuthorizationPolicies) == 0 {
		return
	}
	v := &reviewer{Index: x, ports: map[*resource.Workload][]servedPort{}, byNamespace: map[string][]*resource.Workload{}, said: map[string]bool{}}
	v.survey()
	for _, p := range x.set.AuthorizationPolicies {
		namespaces := []string{p.Namespace}
		if p.Namespace == x.rootNamespace() {
			namespaces = sortedKeys(v.byNamespace)
		}
		selected := false
		for _, ns := range namespaces {
			for _, w := range v.byNamespace[ns] {
				if x.covers(p, w) {
					selected = true
					v.review(p, w)
				}
			}
		}
		scope := "spec.selector"
		if len(targetRefs(p.Spec)) > 0 {
			scope = "spec.targetRefs"
		}
		if !selected && len(v.byNamespace) > 0 && len(p.Spec.Selector.GetMatchLabels())+len(targetRefs(p.Spec)) > 0 {
			v.warn(p, scope, "it selects no workload: the policy is nowhere in force", "")
		}
	}
}

// reviewer says each field's weakness once, about the first port that has it.
type reviewer struct {
	*Index
	byNamespace map[string][]*resource.Workload // those with a proxy, one for all alike
	ports       map[*resource.Workload][]servedPort
	said        map[string]bool
}

func (v *reviewer) warn(p *resource.AuthorizationPolicy, path, reason, hint string) {
	if key := p.Namespace + "/" + p.Name + ":" + path; !v.said[key] {
		v.said[key] = true
		v.report(resource.Warning, &p.Meta, path, reason, hint)
	}
}

// survey finds the kinds of workloads and the ports on which services lead there.
func (v *reviewer) survey() {
	seen := map[string]bool{}
	for _, w := range v.workloads {
		key := w.Namespace + "/" + w.Owner
		if w.Owner == "" {
			key = w.Namespace + "//" + w.Name
		}
		if (w.Sidecar || w.Gateway) && !seen[key] {
			seen[key] = true
			v.byNamespace[w.Namespace] = append(v.byNamespace[w.Namespace], w)
			v.ports[w] = nil
		}
	}
	for _, s := range v.services {
		for _, w := range s.instances {
			known, ours := v.ports[w]
			if !ours || w.Gateway {
				continue
			}
			for i := range s.ports {
				n := s.ports[i].portOn(w)
				if n != 0 && !slices.ContainsFunc(known, func(p servedPort) bool { return p.number == n }) {
					mode, _ := v.PeerMode(w.Namespace, w.Labels, n)
					known = append(known, servedPort{n, s.ports[i].protocol, mode})
				}
			}
			v.ports[w] = known
		}
	}
}

func (v *reviewer) review(p *resource.AuthorizationPolicy, w *resource.Workload) {
	for _, port := range v.ports[w] {
		v.checkIdentity(p, w, port)
		if port.protocol.opaque() {
			v.checkOpaque(p, w, port)
		}
	}
}

// covers reports whether a policy is in force at a workload.
func (x *Index) covers(p *resource.AuthorizationPolicy, w *resource.Workload) bool {
	return x.attached(&p.Meta, p.Spec, w.Namespace, w.Labels, w.Gateway)
}

// checkOpaque is AP10: on a port of which only connections are known, a rule
// that looks at requests allows nothing, or refuses whatever its other fields
// match.
func (v *reviewer) checkOpaque(p *resource.AuthorizationPolicy, w *resource.Workload, port servedPort) {
	allow := p.Spec.Action == security.AuthorizationPolicy_ALLOW
	for i, r := range p.Spec.Rules {
		field := requestField(r)
		if field == "" || !reaches(r, port.number) {
			continue
		}
		path := at("spec.rules", i) + field
		where := fmt.Sprintf("port %d of %s is TCP, where requests cannot be seen: ", port.number, w.Owner)
		switch {
		case !allow:
			v.warn(p, path, where+"there the rule matches whatever its other fields match, and so more than it says", fmt.Sprintf("name the HTTP ports in operation.ports, or leave out %d with notPorts", port.number))
		case !v.allowsOpaque(w, port.number):
			v.warn(p, path, where+"there the rule allows nothing, and no other rule does", "add a rule for the port")
		}
	}
}

// allowsOpaque reports whether any ALLOW rule can let a connection in.
func (x *Index) allowsOpaque(w *resource.Workload, port uint16) bool {
	for _, p := range x.set.AuthorizationPolicies {
		if p.Spec.Action != security.AuthorizationPolicy_ALLOW || !x.covers(p, w) {
			continue
		}
		if slices.ContainsFunc(p.Spec.Rules, func(r *security.Rule) bool { return requestField(r) == "" && reaches(r, port) }) {
			return true
		}
	}
	return false
}

// requestField is the path in a rule of the first field that only requests have.
func requestField(r *security.Rule) string {
	for i, f := range r.From {
		if s := f.Source; len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0 {
			return at(".from", i, "source.requestPrincipals")
		}
	}
	for i, t := range r.To {
		o := t.Operation
		for _, f := range []struct {
			name   string
			values [2][]string
		}{{"hosts", [2][]string{o.Hosts, o.NotHosts}}, {"methods", [2][]string{o.Methods, o.NotMethods}}, {"paths", [2][]string{o.Paths, o.NotPaths}}} {
			if len(f.values[0]) > 0 {
				return at(".to", i, "operation."+f.name)
			}
			if len(f.values[1]) > 0 {
				return at(".to", i, "operation.not"+strings.ToUpper(f.name[:1])+f.name[1:])
			}
		}
	}
	for i, w := range r.When {
		if strings.HasPrefix(w.Key, "request.") {
			return at(".when", i, "key")
		}
	}
	return ""
}

// reaches reports whether a rule's ports leave room for this one.
func reaches(r *security.Rule, port uint16) bool {
	text := itoa(int(port))
	fits := func(ports, not []string) bool {
		return (len(ports) == 0 || slices.Contains(ports, text)) && !slices.Contains(not, text)
	}
	for _, w := range r.When {
		if w.Key == "destination.port" && !fits(w.Values, w.NotValues) {
			return false
		}
	}
	return len(r.To) == 0 || slices.ContainsFunc(r.To, func(t *security.Rule_To) bool { return fits(t.Operation.Ports, t.Operation.NotPorts) })
}
