package authz

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Token is what a verified JSON Web Token says. Immutable; it may be shared by
// all requests that carry the same token.
type Token struct {
	Issuer, Subject string
	Audiences       []string
	Presenter       string // azp
	// Claims is the payload, after space-delimited claims were made lists.
	Claims map[string]any
}

// Principal is "issuer/subject" (request.auth.principal), "" unless the token
// has both.
func (t *Token) Principal() string {
	if t == nil || t.Issuer == "" || t.Subject == "" {
		return ""
	}
	return t.Issuer + "/" + t.Subject
}

// Claim reports whether the claim at path is a string that match accepts, or a
// list with such a string in it. Claims of other types match nothing, as in
// Istio. It may be called on nil.
func (t *Token) Claim(path []string, match func(string) bool) bool {
	if t == nil {
		return false
	}
	var at any = t.Claims
	for _, name := range path {
		object, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if at, ok = object[name]; !ok {
			return false
		}
	}
	switch v := at.(type) {
	case string:
		return match(v)
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok && match(s) {
				return true
			}
		}
	}
	return false
}

// Refusal is why a token was not accepted.
type Refusal struct {
	Status int    // 401, or 403 for the wrong audience
	Reason string // Envoy's text, the body of the answer
	// Hint is what an operator should look at, for the log and explain.
	Hint   string
	Origin ir.Origin // of the rule that was the nearest
}

// Details is Envoy's response code details.
func (r *Refusal) Details() string {
	return "jwt_authn_access_denied{" + strings.ReplaceAll(r.Reason, " ", "_") + "}"
}

// Authenticator verifies the tokens of a request; an Asker that can do so
// implements it. Both results nil: the request has no token.
type Authenticator interface {
	Authenticate(f *ir.JWT) (*Token, *Refusal)
}

// authenticate runs a JWT step. Where tokens cannot be verified, nobody passes.
func (s *step) authenticate(d *Decision, in *Input, ask Asker) bool {
	var refused *Refusal
	if a, ok := ask.(Authenticator); ok {
		in.Token, refused = a.Authenticate(s.jwt)
	} else {
		refused = &Refusal{Status: 401, Reason: "Jwt verification fails", Hint: "tokens cannot be verified here"}
	}
	if refused == nil {
		return true
	}
	d.refuse("JWT", nil)
	d.Origin, d.Token = refused.Origin, refused
	return false
}

// claimLeaf compares a claim of the request's token.
type claimLeaf struct {
	expr *ir.Expr
	path []string
	text func(string) bool
}

func compileClaim(e *ir.Expr) (matcher, error) {
	l := &claimLeaf{expr: e, path: e.ClaimPath()}
	text, err := textMatcher(e.Value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Attr, err)
	}
	l.text = text
	if e.Value.Kind == ir.Present { // an empty claim is none (Istio's ".+")
		l.text = func(s string) bool { return s != "" }
	}
	for _, name := range l.path {
		if name == "" {
			return nil, fmt.Errorf("%s[%s]: a claim without a name", e.Attr, e.Key)
		}
	}
	return l, nil
}

func (l *claimLeaf) match(in *Input) bool { return in.HTTP && in.Token.Claim(l.path, l.text) }

func (l *claimLeaf) missed(in *Input) string {
	name := string(l.expr.Attr)
	if l.expr.Key != "" {
		name += "[" + l.expr.Key + "]"
	}
	wanted := "wanted any"
	if l.expr.Value.Kind != ir.Present {
		wanted = fmt.Sprintf("wanted %s %q", l.expr.Value.Kind, l.expr.Value.Value)
	}
	if !in.HTTP {
		return name + " is not known on a TCP port"
	}
	if in.Token == nil {
		return name + ": the request has no token, " + wanted
	}
	var have []string
	in.Token.Claim(l.path, func(s string) bool { have = append(have, fmt.Sprintf("%q", s)); return false })
	if len(have) == 0 {
		return name + " is absent, " + wanted
	}
	return name + " is " + strings.Join(have, ", ") + ", " + wanted
}
