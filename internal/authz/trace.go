package authz

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Considered is one policy that Check looked at, for explain. Missed is empty
// for one that matched.
type Considered struct {
	Action ir.Action
	Policy *ir.Policy
	Missed string
	DryRun bool // the policy is not in force
}

// Trace does what Check does and says which policies were considered, up to
// the step that decided.
func (e *Engine) Trace(in *Input, ask Asker) (Decision, []Considered) {
	d := Decision{Allow: true}
	in.memo = memo{}
	var list []Considered
	for i := range e.steps {
		s := &e.steps[i]
		action := ir.Action("CUSTOM") // a JWT step has no policies
		if s.rbac != nil {
			action = s.rbac.Action
		}
		for j := range s.policies {
			p := &s.policies[j]
			why := missed(p.principal, in)
			if why == "" {
				why = missed(p.permission, in)
			}
			list = append(list, Considered{action, p.Policy, why, s.rbac != nil && s.rbac.DryRun})
		}
		if !s.pass(&d, in, ask) {
			break
		}
	}
	return d, list
}

// missed says why an expression does not match; "" when it does.
func missed(m matcher, in *Input) string {
	if m.match(in) {
		return ""
	}
	switch m := m.(type) {
	case all:
		for _, part := range m {
			if why := missed(part, in); why != "" {
				return why
			}
		}
	case some:
		var parts []string
		for _, part := range m {
			parts = append(parts, missed(part, in))
		}
		if len(parts) == 0 {
			return "nothing is listed"
		}
		return strings.Join(parts, "; ")
	case *set:
		var parts []string
		for _, l := range m.leaves {
			parts = append(parts, l.missed(in))
		}
		return strings.Join(parts, "; ")
	case negation:
		return "an excluded value is present"
	case *leaf:
		return m.missed(in)
	case *claimLeaf:
		return m.missed(in)
	}
	return "no match"
}

func (l *leaf) missed(in *Input) string {
	e := l.expr
	var got string
	switch e.Attr {
	case ir.AttrSourceIP:
		got = in.SourceIP.String()
	case ir.AttrRemoteIP:
		got = in.RemoteIP.String()
	case ir.AttrDestinationIP:
		got = in.DestinationIP.String()
	case ir.AttrDestinationPort:
		return fmt.Sprintf("%s is %d, wanted %d", e.Attr, in.DestinationPort, e.Port)
	default:
		if got, _ = l.read(in); got != "" && e.Attr == ir.AttrHeader && (SecretHeader(e.Key) || in.Secret != nil && in.Secret(e.Key)) {
			got = "masked"
		}
	}
	name := string(e.Attr)
	if e.Key != "" {
		name += "[" + e.Key + "]"
	}
	switch {
	case !in.HTTP && strings.HasPrefix(name, "request."):
		return name + " is not known on a TCP port"
	case got == "":
		got = "absent"
	default:
		got = fmt.Sprintf("%q", got)
	}
	if e.CIDR != "" {
		return fmt.Sprintf("%s is %s, wanted within %s", name, got, e.CIDR)
	}
	return fmt.Sprintf("%s is %s, wanted %s %q", name, got, e.Value.Kind, e.Value.Value)
}

// SecretHeader reports whether a header's value proves something to somebody,
// so that it must not be shown. name is in lower case.
func SecretHeader(name string) bool {
	switch name {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key":
		return true
	}
	return false
}
