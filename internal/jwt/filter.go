package jwt

import (
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// Filter is a JWT step made ready. Safe for concurrent use.
type Filter struct {
	verifiers []*Verifier
	outputs   []string // headers that only a verified token may set
}

// New makes a filter. verifier gives the Verifier of a provider, so that the
// caller can keep it, and what it remembers, from one configuration to the next.
func New(f *ir.JWT, verifier func(*ir.JWTProvider) (*Verifier, error)) (*Filter, error) {
	out := &Filter{}
	for i := range f.Providers {
		p := &f.Providers[i]
		v, err := verifier(p)
		if err != nil {
			return nil, err
		}
		out.verifiers = append(out.verifiers, v)
		if p.PayloadHeader != "" {
			out.outputs = append(out.outputs, p.PayloadHeader)
		}
		for _, c := range p.ClaimHeaders {
			out.outputs = append(out.outputs, c.Header)
		}
	}
	return out, nil
}

// Holds reports whether a header (lower case) may hold a token, or the claims
// of one, and so must not be shown.
func (f *Filter) Holds(header string) bool {
	for _, v := range f.verifiers {
		for i := range v.places.headers {
			if v.places.headers[i].Name == header {
				return true
			}
		}
	}
	return slices.Contains(f.outputs, header)
}

// Request is what a filter looks at and changes: tokens are taken off, headers
// for the upstream set. Strings may alias a connection's buffer.
type Request struct {
	Method string
	Query  string // with its "?", or empty
	Fields *header.Map
	Time   time.Time
}

// Check verifies the request's tokens. Both results nil: it has none and may
// pass. As istiod asks of Envoy, the first provider accepts that finds tokens
// in its places and can verify all of them; if none does, nobody may have found
// any.
func (f *Filter) Check(r *Request) (*authz.Token, *authz.Refusal) {
	for _, name := range f.outputs {
		r.Fields.Del(name)
	}
	if preflight(r) {
		return nil, nil
	}
	worst, by := missing, (*Verifier)(nil)
	for _, v := range f.verifiers {
		accepted, why := v.check(r)
		if accepted != nil {
			v.hand(r, accepted)
			return accepted.token, nil
		}
		if why.weight() > worst.weight() {
			worst, by = why, v
		}
	}
	if worst == missing {
		return nil, nil
	}
	return nil, by.refusal(worst)
}

// preflight: browsers send no credentials with it (bypass_cors_preflight).
func preflight(r *Request) bool {
	return r.Method == "OPTIONS" && r.Fields.First("origin") != "" && r.Fields.First("access-control-request-method") != ""
}

// check verifies all tokens in the provider's places: a good one must not
// vouch for a bad one that the application may use.
func (v *Verifier) check(r *Request) (*verified, reason) {
	var room [maxTokens]string
	tokens := v.places.find(room[:0], r.Fields, r.Query)
	if len(tokens) == 0 {
		return nil, missing
	}
	if len(tokens) > maxTokens {
		return nil, tooMany
	}
	var first *verified
	for i, token := range tokens {
		accepted, why := v.verify(token, r.Time.Unix())
		if why != "" {
			return nil, why
		}
		if i == 0 {
			first = accepted
		}
	}
	return first, ""
}

// hand makes of the request what the upstream gets.
func (v *Verifier) hand(r *Request, accepted *verified) {
	if !v.provider.Forward {
		r.Query = v.places.remove(r.Fields, r.Query)
	}
	for _, f := range accepted.headers {
		r.Fields.Add(f.Name, f.Value)
	}
}

func (v *Verifier) refusal(why reason) *authz.Refusal {
	out := &authz.Refusal{Status: why.status(), Reason: string(why), Origin: v.provider.Origin}
	if why == noKey && v.provider.KeysMissing != "" {
		out.Hint = "the issuer's keys are missing: " + v.provider.KeysMissing
	}
	return out
}
