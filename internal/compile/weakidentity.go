package compile

import (
	"fmt"
	"slices"

	security "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// identityKeys are the conditions that need mutual TLS.
var identityKeys = []string{"source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"}

// checkIdentity is AP11: who comes in plaintext has no identity, so that a
// rule about identities never matches him and a rule that excludes some does
// not exclude him.
func (v *reviewer) checkIdentity(p *resource.AuthorizationPolicy, w *resource.Workload, port servedPort) {
	if port.mode == string(modeStrict) {
		return
	}
	allow := p.Spec.Action == security.AuthorizationPolicy_ALLOW
	for i, r := range p.Spec.Rules {
		if !reaches(r, port.number) {
			continue
		}
		wants, excludes := identityFields(r)
		base := at("spec.rules", i)
		switch {
		case wants != "" && port.mode == string(modeDisable):
			v.warn(p, base+wants, fmt.Sprintf("mutual TLS is off on port %d of %s: nobody has an identity there, and the rule never matches", port.number, w.Owner), "enable it with a PeerAuthentication")
		case excludes != "" && port.mode == string(modeDisable):
			v.warn(p, base+excludes, fmt.Sprintf("mutual TLS is off on port %d of %s: nobody has an identity there, and the rule matches everybody", port.number, w.Owner), "enable it with a PeerAuthentication")
		case excludes != "" && allow:
			v.warn(p, base+excludes, fmt.Sprintf("%s is PERMISSIVE on port %d: callers in plaintext have no identity and so are not excluded", w.Owner, port.number), "make it STRICT with a PeerAuthentication, or name who may call")
		}
	}
}

// identityFields finds, in a rule, a field that only a caller with an identity
// can match, and one that a caller without matches although it excludes some.
// One that is in every source of the rule counts for wants.
func identityFields(r *security.Rule) (wants, excludes string) {
	every := len(r.From) > 0
	from, open := "", ""
	for i, f := range r.From {
		want, exclude := sourceFields(f.Source)
		if want == "" {
			every = false
			if exclude != "" && open == "" {
				open = at(".from", i, "source."+exclude)
			}
		} else if from == "" {
			from = at(".from", i, "source."+want)
		}
	}
	if every {
		wants = from
	}
	for i, c := range r.When {
		if !slices.Contains(identityKeys, c.Key) {
			continue
		}
		if len(c.Values) > 0 {
			wants = at(".when", i, "values")
		} else if open == "" {
			open = at(".when", i, "notValues")
		}
	}
	if wants != "" {
		return wants, ""
	}
	return "", open
}

func sourceFields(s *security.Source) (want, exclude string) {
	for _, f := range []struct {
		name     string
		values   []string
		excludes string
		not      []string
	}{
		{"principals", s.Principals, "notPrincipals", s.NotPrincipals},
		{"namespaces", s.Namespaces, "notNamespaces", s.NotNamespaces},
		{"serviceAccounts", s.ServiceAccounts, "notServiceAccounts", s.NotServiceAccounts},
		{"trustDomains", s.TrustDomains, "notTrustDomains", s.NotTrustDomains},
	} {
		if want == "" && len(f.values) > 0 {
			want = f.name
		}
		if exclude == "" && len(f.not) > 0 {
			exclude = f.excludes
		}
	}
	return want, exclude
}
