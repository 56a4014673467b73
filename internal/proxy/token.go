package proxy

import (
	"errors"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwt"
)

// bindVerifiers makes the chain's JWT steps. Verifiers of the same provider and
// keys are shared, also with the configuration in force, so that what they
// remember outlives a change of something else.
func (p *Proxy) bindVerifiers(c *chain) error {
	for _, f := range c.Filters {
		if f.JWT == nil {
			continue
		}
		filter, err := jwt.New(f.JWT, func(provider *ir.JWTProvider) (*jwt.Verifier, error) {
			bare := *provider
			bare.Name = "" // its place in one list
			key := "jwt " + ir.Hash(bare)
			c.uses = append(c.uses, key)
			if p.verifiers[key] == nil {
				v, err := jwt.NewVerifier(provider)
				if err != nil {
					return nil, err
				}
				p.verifiers[key] = v
			}
			return p.verifiers[key], nil
		})
		if err != nil {
			return err
		}
		if c.tokens == nil {
			c.tokens = map[*ir.JWT]*jwt.Filter{}
		}
		c.tokens[f.JWT] = filter
	}
	return nil
}

// tokenHeader reports whether a header holds tokens here, or what is in them.
func (c *chain) tokenHeader(name string) bool {
	for _, f := range c.tokens {
		if f.Holds(name) {
			return true
		}
	}
	return false
}

// Authenticate implements authz.Authenticator: it verifies the request's
// tokens, takes them off the request and sets what was asked for. The target
// that is logged is the one without token, as in Envoy.
func (x *exchange) Authenticate(f *ir.JWT) (*authz.Token, *authz.Refusal) {
	r := jwt.Request{Method: x.method, Query: x.query, Fields: &x.req.Fields, Time: x.start}
	token, refused := x.chain.tokens[f].Check(&r)
	if len(r.Query) != len(x.query) { // parameters were taken out
		raw, _, _ := strings.Cut(x.req.Path, "?")
		x.query, x.req.Path, x.authz.Query = r.Query, raw+r.Query, r.Query
	}
	return token, refused
}

// handshake stands for the request that opened what is still open. Its token
// was verified then, and is off the request by now: it counts while a rule for
// its issuer is in force. That it expires ends nothing, as in Envoy.
type handshake struct{ token *authz.Token }

// Authenticate implements authz.Authenticator.
func (h handshake) Authenticate(f *ir.JWT) (*authz.Token, *authz.Refusal) {
	for i := range f.Providers {
		if p := &f.Providers[i]; h.token != nil && (p.Issuer == "" || p.Issuer == h.token.Issuer) {
			return h.token, nil
		}
	}
	return nil, nil
}

// Ask implements authz.Asker.
func (handshake) Ask(f *ir.ExtAuthz) authz.Verdict {
	return authz.Verdict{Err: errors.New("provider " + f.Provider + " is not asked again")}
}

// maxRealm bounds the URI in a challenge, as in Envoy.
const maxRealm = 256

// denyToken answers a token that was not accepted, with the challenge of
// RFC 6750 section 3.
func (x *exchange) denyToken(r *authz.Refusal) {
	x.rec.Details = r.Details()
	path := x.req.Path
	if len(path) > maxRealm {
		path = path[:maxRealm]
	}
	realm := strings.NewReplacer(`"`, "%22", `\`, "%5C").Replace(x.scheme + "://" + x.req.Host + path)
	x.extra = append(x.extra, ir.Header{Name: "www-authenticate", Value: `Bearer realm="` + realm + `", error="invalid_token"`})
	if r.Hint != "" {
		x.d.p.log.Warn("token refused", "rule", r.Origin.String(), "reason", r.Reason, "hint", r.Hint)
	}
	x.answer(r.Status, r.Reason)
}
