package jwt

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwks"
)

// Verifier accepts or refuses the tokens of one provider, and remembers those
// that it has accepted. Safe for concurrent use.
type Verifier struct {
	provider  *ir.JWTProvider
	audiences []string
	keys      []jwks.Key // none: nothing is accepted
	places    places
	cache     cache
}

// verified is an accepted token with what follows from it; immutable.
type verified struct {
	token    *authz.Token
	headers  []header.Field // for the upstream
	nbf, exp int64
	size     int // of the token, in bytes
}

// NewVerifier reads the provider's keys. Keys that cannot be read are an
// error: the configuration has to say that they are missing (KeysMissing).
func NewVerifier(p *ir.JWTProvider) (*Verifier, error) {
	v := &Verifier{provider: p, places: placesOf(p)}
	if p.KeysMissing == "" {
		keys, err := jwks.Parse([]byte(p.Keys))
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", p.Name, err)
		}
		v.keys = keys
	}
	for _, a := range p.Audiences {
		v.audiences = append(v.audiences, bareAudience(a))
	}
	return v, nil
}

// verify checks a token at a time in Unix seconds. The order is Envoy's: who
// sees several faults at once is told the same one.
func (v *Verifier) verify(token string, now int64) (*verified, reason) {
	if len(token) > MaxToken {
		return nil, tooLarge
	}
	sum := sha256.Sum256(stringBytes(token)) // not the token itself: what is remembered must not open doors
	if known := v.cache.get(sum); known != nil {
		return known, inTime(known.nbf, known.exp, now)
	}
	p, r := parse(token)
	if r != "" {
		return nil, r
	}
	if v.provider.Issuer != "" && p.iss != v.provider.Issuer {
		return nil, unknownIssuer
	}
	if r := inTime(p.nbf, p.exp, now); r != "" {
		return nil, r
	}
	if !v.audienceAllowed(p.aud) {
		return nil, wrongAudience
	}
	if r := v.signed(token, p); r != "" {
		return nil, r
	}
	out := v.accept(p)
	out.size = len(token)
	v.cache.put(sum, out)
	return out, ""
}

func inTime(nbf, exp, now int64) reason {
	switch {
	case now+clockSkew < nbf:
		return notYetValid
	case exp != 0 && now > exp+clockSkew:
		return expired
	}
	return ""
}

// signed tries the keys that the token may mean: all with its kid and those
// without one, for its algorithm only.
func (v *Verifier) signed(token string, p *parsed) reason {
	if p.alg == jose.EdDSA && p.signature != 64 {
		return signatureLength
	}
	var jws *jose.JSONWebSignature
	matched := false
	for i := range v.keys {
		k := &v.keys[i]
		if p.kid != "" && k.ID != "" && p.kid != k.ID || k.Algorithm != "" && k.Algorithm != string(p.alg) {
			continue
		}
		matched = true
		if p.crit || !k.Fits(string(p.alg)) { // the key's kind decides, never what the token claims about it
			continue
		}
		if jws == nil {
			var err error
			if jws, err = jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{p.alg}); err != nil {
				return wrongSignature
			}
		}
		if _, err := jws.Verify(k.Public); err == nil {
			return ""
		}
	}
	if !matched {
		return noKey
	}
	return wrongSignature
}

func (v *Verifier) audienceAllowed(have []string) bool {
	if len(v.audiences) == 0 {
		return true
	}
	return slices.ContainsFunc(have, func(a string) bool { return slices.Contains(v.audiences, bareAudience(a)) })
}

// bareAudience: the scheme and a slash at the end do not count (Envoy).
func bareAudience(a string) string {
	rest, ok := strings.CutPrefix(a, "https://")
	if !ok {
		rest = strings.TrimPrefix(a, "http://")
	}
	return strings.TrimSuffix(rest, "/")
}

// accept makes what policies, routes and the upstream see of a token.
func (v *Verifier) accept(p *parsed) *verified {
	out := &verified{nbf: p.nbf, exp: p.exp}
	if name := v.provider.PayloadHeader; name != "" {
		out.headers = append(out.headers, header.Field{Name: name, Value: p.payload})
	}
	for _, c := range v.provider.ClaimHeaders {
		if text := claimText(lookup(p.claims, c.Claim)); text != "" {
			out.headers = append(out.headers, header.Field{Name: c.Header, Value: text})
		}
	}
	for _, name := range v.provider.SpaceDelimited {
		split(p.claims, name)
	}
	out.token = &authz.Token{Issuer: p.iss, Subject: p.sub, Audiences: p.aud, Presenter: p.azp, Claims: p.claims}
	return out
}

// lookup finds a claim of that very name, or at its dotted path.
func lookup(claims map[string]any, path string) any {
	if v, ok := claims[path]; ok {
		return v
	}
	var at any = claims
	for name := range strings.SplitSeq(path, ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = object[name]
	}
	return at
}

// claimText is a claim as a header's value; "" for what has none. Numbers are
// written as Envoy writes them: whole ones from 0 on as they are, others with
// six decimals. A string that no header can carry is left out: it would be
// two headers.
func claimText(v any) string {
	switch v := v.(type) {
	case string:
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return ""
		}
		return strings.TrimSpace(v)
	case bool:
		return strconv.FormatBool(v)
	case float64:
		if v >= 0 && v < 1<<64 && v == float64(uint64(v)) {
			return strconv.FormatUint(uint64(v), 10)
		}
		return strconv.FormatFloat(v, 'f', 6, 64)
	}
	return ""
}

// split makes a list of a space-delimited claim: the one of that very name, or
// else the one at its dotted path.
func split(claims map[string]any, name string) {
	at, last := claims, name
	if _, ok := claims[name]; !ok {
		parts := strings.Split(name, ".")
		for _, part := range parts[:len(parts)-1] {
			inner, ok := at[part].(map[string]any)
			if !ok {
				return
			}
			at = inner
		}
		last = parts[len(parts)-1]
	}
	text, ok := at[last].(string)
	if !ok {
		return
	}
	list := []any{}
	for _, word := range strings.Fields(text) {
		list = append(list, word)
	}
	at[last] = list
}
