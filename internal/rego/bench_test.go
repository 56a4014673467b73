package rego

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// issuer signs tokens that ResearchFlow's policy takes.
type issuer struct{ signer jose.Signer }

// newIssuer replaces the policy's keys by its own.
func newIssuer(t testing.TB, s *ir.Rego) *issuer { return newIssuerOf(t, s, jose.ES256) }

// newIssuerOf makes the policy demand the algorithm: ES256, or RS256 with a key
// of 2048 bits.
func newIssuerOf(t testing.TB, s *ir.Rego, alg jose.SignatureAlgorithm) *issuer {
	t.Helper()
	var key crypto.Signer
	var err error
	if alg == jose.RS256 {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "demo").WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"jwks": jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "demo", Algorithm: string(alg), Use: "sig"}}}})
	if err != nil {
		t.Fatal(err)
	}
	s.Data = string(data)
	for name, text := range s.Modules {
		s.Modules[name] = strings.ReplaceAll(text, `"alg": "ES256"`, fmt.Sprintf("\"alg\": %q", alg))
	}
	return &issuer{signer}
}

func (i *issuer) token(t testing.TB, edit func(claims map[string]any)) string {
	t.Helper()
	claims := map[string]any{"iss": "https://researchflow.example", "aud": "researchflow-api", "sub": "vera", "roles": []string{"viewer"}, "exp": time.Now().Add(time.Hour).Unix()}
	if edit != nil {
		edit(claims)
	}
	b, _ := json.Marshal(claims)
	o, err := i.signer.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	token, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func apiRequest(token string) *authz.External {
	r := request("user-agent", "curl/8", "accept", "*/*", "x-forwarded-for", "10.0.0.9", "x-forwarded-proto", "http", "x-request-id", "7", "accept-encoding", "gzip", "authorization", "Bearer "+token)
	r.Path = "/api/jobs?limit=3"
	return r
}

// A token whose signature was verified once still ends when it says so.
func TestTokensExpire(t *testing.T) {
	s := researchflow(t)
	i := newIssuer(t, s)
	p := mustCompile(t, s)
	if p.tokens == nil {
		t.Fatal("the policy's tokens are not remembered")
	}
	r := apiRequest(i.token(t, func(c map[string]any) { c["exp"] = 2000; c["nbf"] = 1000 }))
	input, _, err := p.input(r, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at    int64
		allow string
	}{{1500, "true"}, {1999, "true"}, {2000, "false"}, {3000, "false"}, {999, "false"}, {1500, "true"}} {
		v, err := p.eval(t.Context(), p.decide, input, time.Unix(tc.at, 0), time.Time{})
		if err != nil || v.String() != tc.allow {
			t.Errorf("at %d: %v %v, want %s", tc.at, v, err, tc.allow)
		}
	}
	if p.tokens.jwt.size != 1 {
		t.Errorf("%d tokens remembered", p.tokens.jwt.size)
	}
	other := apiRequest(newIssuer(t, researchflow(t)).token(t, nil))
	for range 2 {
		if v := NewDecider(p, nil, 0).Check(t.Context(), other); v.Allow || v.Err != nil {
			t.Errorf("another issuer's token: %+v", v)
		}
	}
}

// Where places of a policy demand different things of a token, nothing is
// remembered: the one must not answer for the other.
func TestTokensRememberedOnlyWhereAlike(t *testing.T) {
	for rules, want := range map[string]bool{
		`allow if io.jwt.decode_verify(input.t, {"cert": data.c, "alg": "ES256"})[0]`: true,
		`allow if io.jwt.verify_es256(input.t, data.c)`:                               true,
		`allow if io.jwt.decode_verify(input.t, {"cert": data.c})[0]`:                 true,
		`allow if io.jwt.decode_verify(input.t, {"cert": data.c, "alg": data.a})[0]`:  false,
		`allow if io.jwt.decode_verify(input.t, data.c)[0]`:                           false,
		"allow if io.jwt.decode_verify(input.t, {\"cert\": data.c, \"alg\": \"ES256\"})[0]\nallow if io.jwt.decode_verify(input.t, {\"cert\": data.c, \"alg\": \"RS256\"})[0]": false,
		"allow if io.jwt.decode_verify(input.t, {\"cert\": data.c})[0]\nallow if io.jwt.verify_rs256(input.t, data.c)":                                                         false,
		"allow if { some c in data.cs; [io.jwt.verify_es256(input.t, c), io.jwt.verify_rs256(input.t, c)][_] }":                                                                false,
		`allow if { x := {"cert": data.c, "alg": input.alg}; io.jwt.decode_verify(input.t, x)[0] }`:                                                                            false,
	} {
		if p := mustCompile(t, spec("package envoy.authz\n"+rules)); (p.tokens != nil) != want {
			t.Errorf("%s: remembered %v", rules, p.tokens != nil)
		}
	}
}

// What callers send does not fill the memory.
func TestTokensBounded(t *testing.T) {
	s := researchflow(t)
	i := newIssuer(t, s)
	p := mustCompile(t, s)
	d := NewDecider(p, nil, time.Minute)
	for n := range 2 * maxTokens {
		d.Check(t.Context(), apiRequest(fmt.Sprintf("eyJhbGciOiJFUzI1NiJ9.e30.%086d", n)))
	}
	count := 0
	for _, m := range []map[int][]*pair{p.tokens.jwt.now, p.tokens.jwt.old} {
		for _, l := range m {
			count += len(l)
		}
	}
	if count == 0 || count > maxTokens {
		t.Errorf("%d tokens remembered", count)
	}
	if v := d.Check(t.Context(), apiRequest(i.token(t, nil))); !v.Allow {
		t.Errorf("a good token after many bad: %+v", v)
	}
}

func BenchmarkResearchFlow(b *testing.B) {
	s := researchflow(b)
	i := newIssuer(b, s)
	p := mustCompile(b, s)
	d := NewDecider(p, nil, time.Second)
	b.Run("warm", func(b *testing.B) {
		r := apiRequest(i.token(b, nil))
		b.ReportAllocs()
		for b.Loop() {
			if v := d.Check(b.Context(), r); !v.Allow {
				b.Fatal(v)
			}
		}
	})
	b.Run("token known", func(b *testing.B) { // another path each time
		token := i.token(b, nil)
		requests := make([]*authz.External, 4*maxDecisions)
		for n := range requests {
			requests[n] = apiRequest(token)
			requests[n].Path = fmt.Sprintf("/api/jobs/%d", n)
		}
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			if v := d.Check(b.Context(), requests[n%len(requests)]); !v.Allow {
				b.Fatal(v)
			}
			n++
		}
	})
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256} {
		b.Run("cold "+string(alg), func(b *testing.B) {
			s := researchflow(b)
			i := newIssuerOf(b, s, alg)
			p := mustCompile(b, s)
			d := NewDecider(p, nil, time.Second)
			tokens := make([]*authz.External, 1000)
			for n := range tokens {
				tokens[n] = apiRequest(i.token(b, func(c map[string]any) { c["jti"] = fmt.Sprint(n) }))
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n == len(tokens) { // all of them are known: forget them
					n, p.tokens.jwt, p.memo, p.known = 0, bucket{limit: maxTokens}, &memo{}, memo{}
				}
				if v := d.Check(b.Context(), tokens[n]); !v.Allow {
					b.Fatal(v)
				}
			}
		})
	}
}
