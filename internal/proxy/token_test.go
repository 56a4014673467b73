package proxy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwt"
)

// tokenKeys are an issuer's keys, one for each algorithm.
type tokenKeys map[jose.SignatureAlgorithm]crypto.Signer

func newTokenKeys(t testing.TB) tokenKeys {
	t.Helper()
	out := tokenKeys{}
	put := func(k crypto.Signer, err error, algs ...jose.SignatureAlgorithm) {
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range algs {
			out[a] = k
		}
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	put(r, err, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512)
	for alg, curve := range map[jose.SignatureAlgorithm]elliptic.Curve{jose.ES256: elliptic.P256(), jose.ES384: elliptic.P384(), jose.ES512: elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		put(k, err, alg)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	put(ed, err, jose.EdDSA)
	return out
}

func (k tokenKeys) document(t testing.TB) string {
	t.Helper()
	set := jose.JSONWebKeySet{}
	for alg, key := range k {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: string(alg)})
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (k tokenKeys) sign(t testing.TB, alg jose.SignatureAlgorithm, claims map[string]any) string {
	t.Helper()
	c := map[string]any{"iss": "https://issuer.example.com", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, claims)
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: k[alg]}, (&jose.SignerOptions{}).WithHeader("kid", string(alg)))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tokenMesh has a callee that verifies tokens; its application tells what it
// was sent.
func tokenMesh(t *testing.T, keys tokenKeys) *mesh {
	return newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-User")+" "+r.Header.Get("Authorization")+" "+r.RequestURI)
	}), func(m *mesh) {
		m.snapB.Listeners[0].Chains[0].Filters = []ir.Filter{{JWT: &ir.JWT{Providers: []ir.JWTProvider{{Name: "origins-0", Issuer: "https://issuer.example.com",
			Keys: keys.document(t), ClaimHeaders: []ir.ClaimHeader{{Header: "x-user", Claim: "sub"}}}}}}}
	})
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// Every algorithm through two sidecars, with what the log says.
func TestTokens(t *testing.T) {
	keys := newTokenKeys(t)
	m := tokenMesh(t, keys)
	for _, alg := range slices.Sorted(maps.Keys(keys)) {
		if res, body := m.get("/a?x=1", bearer(keys.sign(t, alg, nil))); res.StatusCode != 200 || body != "alice  /a?x=1" {
			t.Errorf("%s: %d %q", alg, res.StatusCode, body)
		}
	}
	other := newTokenKeys(t)
	hour := func(n int) int64 { return time.Now().Add(time.Duration(n) * time.Hour).Unix() }
	for _, tc := range []struct {
		name, token    string
		status         int
		body, details  string
		without, query bool
	}{
		{name: "none", without: true, status: 200, body: "  /a"},
		{name: "in the query", token: keys.sign(t, jose.ES256, nil), query: true, status: 200, body: "alice  /a?x=1&y=2"},
		{name: "expired", token: keys.sign(t, jose.RS256, map[string]any{"exp": hour(-1)}), status: 401, body: "Jwt is expired", details: "jwt_authn_access_denied{Jwt_is_expired}"},
		{name: "future", token: keys.sign(t, jose.RS256, map[string]any{"nbf": hour(1)}), status: 401, body: "Jwt not yet valid", details: "jwt_authn_access_denied{Jwt_not_yet_valid}"},
		{name: "forged", token: other.sign(t, jose.PS256, nil), status: 401, body: "Jwt verification fails", details: "jwt_authn_access_denied{Jwt_verification_fails}"},
		{name: "oversized", token: keys.sign(t, jose.EdDSA, map[string]any{"x": strings.Repeat("x", jwt.MaxToken)}), status: 401, body: "Jwt is too large", details: "jwt_authn_access_denied{Jwt_is_too_large}"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := "/a"
			var edit []func(*http.Request)
			switch {
			case tc.query:
				path = "/a?x=1&access_token=" + tc.token + "&y=2"
			case !tc.without:
				edit = append(edit, bearer(tc.token))
			}
			res, body := m.get(path, edit...)
			if res.StatusCode != tc.status || body != tc.body {
				t.Errorf("%d %q, want %d %q", res.StatusCode, body, tc.status, tc.body)
			}
			if tc.details == "" {
				return
			}
			if got, want := res.Header.Get("Www-Authenticate"), `Bearer realm="`+m.url+`/a", error="invalid_token"`; got != want {
				t.Errorf("challenge %s, want %s", got, want)
			}
			log := m.logB.wait(t, tc.details)
			line := log[strings.LastIndexByte(log[:strings.Index(log, tc.details)], '\n')+1:]
			if !strings.Contains(line, "401 - "+tc.details) {
				t.Errorf("the log says a flag: %s", line)
			}
		})
	}
	if log := m.logB.String(); strings.Contains(log, "access_token") {
		t.Errorf("the callee's log has a token:\n%s", log)
	}
}

// What is remembered outlives a change of something else, and not a change of
// the keys: a token of a withdrawn key is refused at once.
func TestKeysAreReplaced(t *testing.T) {
	keys, next := newTokenKeys(t), newTokenKeys(t)
	m := tokenMesh(t, keys)
	token := keys.sign(t, jose.ES256, nil)
	if res, _ := m.get("/", bearer(token)); res.StatusCode != 200 {
		t.Fatal(res.StatusCode)
	}
	verifiers := func() []*jwt.Verifier {
		m.b.applyMu.Lock()
		defer m.b.applyMu.Unlock()
		return slices.Collect(maps.Values(m.b.verifiers))
	}
	before := verifiers()
	m.snapB.Listeners[0].Chains[0].HTTP.ServerName = "changed"
	m.apply(m.b, m.snapB)
	if after := verifiers(); len(before) != 1 || !slices.Equal(before, after) {
		t.Errorf("verifiers %v became %v, though neither provider nor keys have changed", before, after)
	}
	m.snapB.Listeners[0].Chains[0].Filters[0].JWT.Providers[0].Keys = next.document(t)
	m.apply(m.b, m.snapB)
	if res, body := m.get("/", bearer(token)); res.StatusCode != 401 || body != "Jwt verification fails" {
		t.Errorf("a withdrawn key's token: %d %s", res.StatusCode, body)
	}
	if res, _ := m.get("/", bearer(next.sign(t, jose.ES256, nil))); res.StatusCode != 200 {
		t.Errorf("a new key's token: %d", res.StatusCode)
	}
	if after := verifiers(); len(after) != 1 || after[0] == before[0] {
		t.Errorf("verifiers %v, want the new one alone", after)
	}
	bad := *m.snapB
	bad.Listeners[0].Chains[0].Filters[0].JWT.Providers[0].Keys = "{}"
	if err := m.b.Apply(bad.Seal()); err == nil || !strings.Contains(err.Error(), "origins-0") {
		t.Errorf("keys that cannot be read are taken: %v", err)
	}
}

// A denial keeps who the token speaks of, what is wrong with it, and no token.
func TestDeniedTokens(t *testing.T) {
	keys := newTokenKeys(t)
	m := tokenMesh(t, keys)
	filters := &m.snapB.Listeners[0].Chains[0].Filters
	(*filters)[0].JWT.Providers[0].FromHeaders, (*filters)[0].JWT.Providers[0].Forward = []ir.JWTHeader{{Name: "x-token"}}, true
	*filters = append(*filters, ir.Filter{RBAC: &ir.RBAC{Action: ir.Deny, Policies: []ir.Policy{{Name: "ns[shop]-policy[d]-rule[0]", Principal: &ir.Expr{Op: ir.Any},
		Permission: &ir.Expr{Op: ir.Leaf, Attr: ir.AttrHeader, Key: "x-token", Value: ir.Match{Kind: ir.Exact, Value: "x"}}}}}}, ir.Filter{RBAC: &ir.RBAC{Action: ir.Allow, Policies: []ir.Policy{{Name: "ns[shop]-policy[p]-rule[0]", Permission: &ir.Expr{Op: ir.Any},
		Principal: &ir.Expr{Op: ir.Leaf, Attr: ir.AttrClaim, Key: "sub", Value: ir.Match{Kind: ir.Exact, Value: "bob"}}}}}})
	m.apply(m.b, m.snapB)
	for _, tc := range []struct {
		name, token              string
		status                   int
		principal, fault, missed string
	}{
		{"another's", keys.sign(t, jose.ES256, nil), 403, "https://issuer.example.com/alice", "", `request.auth.claims[sub] is "alice", wanted exact "bob"`},
		{"none", "", 403, "", "", "the request has no token"},
		{"expired", keys.sign(t, jose.ES256, map[string]any{"exp": 1}), 401, "", "Jwt is expired", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, _ := m.get("/", func(r *http.Request) {
				if tc.token != "" {
					r.Header.Set("X-Token", tc.token)
				}
			})
			d := m.b.Denials("")[0]
			if res.StatusCode != tc.status || d.Status != tc.status || d.RequestPrincipal != tc.principal || d.TokenFault != tc.fault {
				t.Errorf("%d, %+v", res.StatusCode, d)
			}
			if (tc.missed != "") != (len(d.Considered) == 2) || tc.missed != "" && !strings.Contains(d.Considered[1].Missed, tc.missed) {
				t.Errorf("considered %+v, want %q", d.Considered, tc.missed)
			}
			if head, _, ok := strings.Cut(tc.token, "."); ok && strings.Contains(fmt.Sprint(d.Considered), head) {
				t.Errorf("the token is among what was considered: %+v", d.Considered)
			}
			if v := d.Headers["x-token"]; v != "" && v != "masked" {
				t.Errorf("the token is kept: %s", v)
			}
		})
	}
}
