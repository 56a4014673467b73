package jwt

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // names are compared exactly, a name that comes twice is an error
)

// algorithms that are accepted: signatures only. "none" is none, and HS* would
// make a secret of what everybody may fetch.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// parsed is a token taken apart; nothing in it is to be believed yet.
type parsed struct {
	alg       jose.SignatureAlgorithm
	kid       string
	crit      bool // it asks for extensions (RFC 7515 section 4.1.11)
	signature int  // bytes
	payload   string
	claims    map[string]any

	iss, sub, azp string
	aud           []string
	nbf, exp      int64 // seconds; 0: absent
}

// parse checks the form of a token, in Envoy's order, so that the same fault
// has the same name.
func parse(token string) (*parsed, reason) {
	if len(token) > MaxToken {
		return nil, tooLarge
	}
	head, rest, _ := strings.Cut(token, ".")
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || head == "" || payload == "" || signature == "" || strings.Contains(signature, ".") {
		return nil, badFormat
	}
	p := &parsed{payload: strings.Clone(payload)} // outlives the request's buffer
	if r := p.header(head); r != "" {
		return nil, r
	}
	text, ok := decode(payload)
	if !ok {
		return nil, payloadBase64
	}
	if json.Unmarshal(text, &p.claims) != nil || p.claims == nil {
		return nil, payloadJSON
	}
	if r := p.registered(); r != "" {
		return nil, r
	}
	sig, ok := decode(signature)
	if !ok {
		return nil, signatureBase64
	}
	p.signature = len(sig)
	return p, ""
}

// decode is base64url without padding (RFC 7515 section 2). Line breaks, which
// Go's decoder passes over, are no part of the alphabet.
func decode(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	return b, err == nil
}

func (p *parsed) header(segment string) reason {
	text, ok := decode(segment)
	if !ok {
		return headerBase64
	}
	var fields map[string]any
	if json.Unmarshal(text, &fields) != nil || fields == nil {
		return headerJSON
	}
	alg, ok := fields["alg"].(string)
	if !ok {
		return badAlg
	}
	if p.alg = jose.SignatureAlgorithm(alg); !slices.Contains(algorithms, p.alg) {
		return unknownAlg
	}
	if kid, present := fields["kid"]; present {
		if p.kid, ok = kid.(string); !ok {
			return badKid
		}
	}
	_, p.crit = fields["crit"]
	// The library takes b64 at its word also where crit does not name it (RFC 7797
	// section 6), and then verifies other bytes than those that were sent.
	if b64, present := fields["b64"]; present && b64 != true {
		p.crit = true
	}
	return ""
}

// registered reads the claims that RFC 7519 section 4.1 defines.
func (p *parsed) registered() reason {
	for _, c := range []struct {
		name string
		into *string
	}{{"iss", &p.iss}, {"sub", &p.sub}} {
		if v, present := p.claims[c.name]; present {
			var ok bool
			if *c.into, ok = v.(string); !ok {
				return notString(c.name)
			}
		}
	}
	var iat int64
	for _, c := range []struct {
		name string
		into *int64
	}{{"iat", &iat}, {"nbf", &p.nbf}, {"exp", &p.exp}} {
		if v, present := p.claims[c.name]; present {
			n, ok := v.(float64)
			if !ok {
				return notInteger(c.name)
			}
			if n < 0 || n >= math.MaxInt64 {
				return outOfRange(c.name)
			}
			*c.into = int64(n)
		}
	}
	if v, present := p.claims["jti"]; present {
		if _, ok := v.(string); !ok {
			return notString("jti")
		}
	}
	p.azp, _ = p.claims["azp"].(string)
	return p.audiences()
}

func (p *parsed) audiences() reason {
	switch v := p.claims["aud"].(type) {
	case nil:
		if _, present := p.claims["aud"]; present {
			return badAudience
		}
	case string:
		p.aud = []string{v}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return badAudience
			}
			p.aud = append(p.aud, s)
		}
	default:
		return badAudience
	}
	return ""
}
