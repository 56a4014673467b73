// Package authz decides whether a request or connection may go on: the
// evaluation of AuthorizationPolicy as the proxy runs it. The same engine
// answers live traffic (Check, which does not allocate) and explain (Trace).
package authz

import (
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Headers looks up a header by lower-case name; several values are joined.
type Headers interface {
	Get(name string) (string, bool)
}

// Input is what policies look at. Strings may alias a connection's buffer.
type Input struct {
	Principal       string // spiffe://td/ns/x/sa/y that mTLS proved; empty without
	SourceIP        netip.Addr
	RemoteIP        netip.Addr // after x-forwarded-for
	DestinationIP   netip.Addr
	DestinationPort uint16
	SNI             string

	HTTP    bool // false: the fields below are not known, and nothing that looks at them matches
	Host    string
	Method  string
	Path    string // normalized, without query
	Query   string // with its "?"
	Headers Headers
	// Token is the request's verified token, nil for none. A JWT step sets it.
	Token *Token
	// Secret, if set, names headers (lower case) that Trace must not show, beside
	// those of SecretHeader.
	Secret func(header string) bool

	memo memo // of Check and Trace
}

// Asker puts a request to the external authorizer of a CUSTOM step.
type Asker interface {
	Ask(f *ir.ExtAuthz) Verdict
}

// Decision is the outcome. The zero Policy with Allow false means that ALLOW
// policies exist and none matched.
type Decision struct {
	Allow    bool
	Action   ir.Action // of the step that decided; "" when none had to
	Policy   string    // "ns[..]-policy[..]-rule[..]"
	Origin   ir.Origin
	Provider string   // of a CUSTOM step
	External *Verdict // what it answered, also on allow
	// Audit is the AUDIT policy that matched, "" for none: it only marks.
	Audit string
	Dry   DryRun
	Token *Refusal // of a JWT step
}

// Marked reports whether AUDIT or dry-run policies have anything to say.
func (d *Decision) Marked() bool { return d.Audit != "" || d.Dry.Asked() }

// Details is Envoy's response code details for a denial.
func (d *Decision) Details() string {
	switch {
	case d.Token != nil:
		return d.Token.Details()
	case d.External != nil && d.External.Local != "":
		return d.External.Local
	case d.External != nil && d.External.Err != nil:
		return "ext_authz_error"
	case d.External != nil:
		return "ext_authz_denied"
	case d.Policy == "":
		return "rbac_access_denied_matched_policy[none]"
	}
	name := d.Policy
	if d.Provider != "" { // a provider that cannot be asked refuses, under Istio's name
		name = "istio-ext-authz-" + d.Provider + "-" + name + "-deny-due-to-bad-CUSTOM-action"
	}
	return "rbac_access_denied_matched_policy[" + name + "]"
}

// Engine evaluates the filters of one chain. Safe for concurrent use.
type Engine struct{ steps []step }

type step struct {
	rbac     *ir.RBAC
	ext      *ir.ExtAuthz
	jwt      *ir.JWT
	policies []policy
}

type policy struct {
	*ir.Policy
	permission, principal matcher // for Trace
	rule                  terms   // both, taken apart
}

// name of a policy; "" for nil.
func (p *policy) name() string {
	if p == nil {
		return ""
	}
	return p.Name
}

// New compiles filters. The error names the policy.
func New(filters []ir.Filter) (*Engine, error) {
	e, x := &Engine{}, &indexer{tables: map[textKey]*table{}, sets: map[string]*set{}}
	for i, f := range filters {
		s := step{rbac: f.RBAC, ext: f.ExtAuthz, jwt: f.JWT}
		var list []ir.Policy
		switch {
		case f.JWT != nil && f.RBAC == nil && f.ExtAuthz == nil:
		case f.RBAC != nil && f.ExtAuthz == nil && f.JWT == nil:
			if a := f.RBAC.Action; a != ir.Allow && a != ir.Deny && a != ir.Audit {
				return nil, fmt.Errorf("authorization filter %d: action %q is not known", i, a)
			}
			list = f.RBAC.Policies
		case f.ExtAuthz != nil && f.RBAC == nil && f.JWT == nil:
			list = f.ExtAuthz.Policies
		default:
			return nil, fmt.Errorf("authorization filter %d: exactly one of rbac, jwt and extAuthz must be set", i)
		}
		for j := range list {
			p := policy{Policy: &list[j]}
			var err error
			if p.permission, err = x.compile(list[j].Permission); err == nil {
				p.principal, err = x.compile(list[j].Principal)
			}
			if err != nil {
				return nil, fmt.Errorf("policy %s: %w", list[j].Name, err)
			}
			p.rule = conjunction(p.principal, p.permission)
			s.policies = append(s.policies, p)
		}
		e.steps = append(e.steps, s)
	}
	return e, nil
}

// matched returns the first policy that matches.
func (s *step) matched(in *Input) *policy {
	for i := range s.policies {
		if p := &s.policies[i]; p.rule.match(in) {
			return p
		}
	}
	return nil
}

// Check decides. ask may be nil when no filter is external.
func (e *Engine) Check(in *Input, ask Asker) Decision {
	d := Decision{Allow: true}
	in.memo = memo{}
	for i := range e.steps {
		if !e.steps[i].pass(&d, in, ask) {
			break
		}
	}
	return d
}

// pass runs one step; false: refused, and d says why.
func (s *step) pass(d *Decision, in *Input, ask Asker) bool {
	if s.jwt != nil {
		return s.authenticate(d, in, ask)
	}
	p := s.matched(in)
	if s.ext != nil {
		in.memo = memo{} // an authorizer may change headers
		return p == nil || s.external(d, p, ask)
	}
	if s.rbac.DryRun {
		*d.Dry.of(s.rbac.Action) = Shadow{Asked: true, Policy: p.name()}
		return true
	}
	switch s.rbac.Action {
	case ir.Audit:
		d.Audit = p.name()
	case ir.Allow:
		d.Dry.live = true
	}
	if refused := s.rbac.Action == ir.Allow && p == nil || s.rbac.Action == ir.Deny && p != nil; !refused {
		return true
	}
	d.refuse(s.rbac.Action, p)
	return false
}

// refuse decides; p is nil where no ALLOW policy matched.
func (d *Decision) refuse(a ir.Action, p *policy) {
	d.Allow, d.Action, d.Policy, d.Origin, d.Provider, d.External = false, a, p.name(), ir.Origin{}, "", nil
	if p != nil {
		d.Origin = p.Origin
	}
}

// external asks; false: refused, and d says why. Whatever goes wrong refuses,
// unless the provider is configured to fail open.
func (s *step) external(d *Decision, p *policy, ask Asker) bool {
	var v Verdict
	switch {
	case s.ext.Broken != "":
		d.refuse(ir.Deny, p)
		d.Provider = s.ext.Provider
		return false
	case ask == nil:
		v.Err = fmt.Errorf("provider %s cannot be asked here", s.ext.Provider)
	default:
		v = ask.Ask(s.ext)
	}
	if v.Err != nil {
		v.Allow = s.ext.FailOpen
		if v.Status == 0 {
			v.Status = s.ext.StatusOnError
		}
		if v.Status == 0 {
			v.Status = 403
		}
	}
	d.Action, d.Policy, d.Origin, d.Provider, d.External = "CUSTOM", p.Name, p.Origin, s.ext.Provider, &v
	d.Allow = v.Allow
	return v.Allow
}
