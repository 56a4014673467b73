package jwt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

func filter(t testing.TB, providers ...ir.JWTProvider) *Filter {
	t.Helper()
	f, err := New(&ir.JWT{Providers: providers}, NewVerifier)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// fields reads "name: value" lines.
func fields(lines ...string) *header.Map {
	m := &header.Map{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		m.Add(name, value)
	}
	return m
}

func texts(m *header.Map) []string {
	var out []string
	for _, f := range m.Fields {
		out = append(out, f.Name+": "+f.Value)
	}
	return out
}

// RA3 and RA4: where tokens are found, and what is left of the request.
func TestPlaces(t *testing.T) {
	i := newIssuer(t)
	token := i.sign(t, jose.ES256, good(nil))
	old := i.sign(t, jose.ES256, good(claims{"exp": in(-time.Hour)}))
	bare := ir.JWTProvider{Name: "origins-0", Issuer: "https://issuer.example.com", Keys: i.keys(t)}
	custom := bare
	custom.FromHeaders = []ir.JWTHeader{{Name: "x-token"}, {Name: "x-auth", Prefix: "Token "}}
	custom.FromParams, custom.FromCookies = []string{"token"}, []string{"session"}
	keeps := custom
	keeps.Forward = true
	const nobody, alice = "", "https://issuer.example.com/alice"
	for _, tc := range []struct {
		name      string
		provider  ir.JWTProvider
		headers   []string
		query     string
		principal string
		refused   reason
		left      []string
		leftQuery string
	}{
		{"none", bare, []string{"accept: x"}, "?a=b", nobody, "", []string{"accept: x"}, "?a=b"},
		{"default header", bare, []string{"authorization: Bearer " + token, "accept: x"}, "", alice, "", []string{"accept: x"}, ""},
		{"default parameter", bare, nil, "?a=b&access_token=" + token + "&c=%20", alice, "", nil, "?a=b&c=%20"},
		{"only parameter", bare, nil, "?access_token=" + token, alice, "", nil, ""},
		{"parameter with an encoded name", bare, nil, "?access%5Ftoken=" + token, alice, "", nil, ""},
		{"other scheme", bare, []string{"authorization: Basic eDp5"}, "", nobody, "", []string{"authorization: Basic eDp5"}, ""},
		{"lower case scheme, as in Envoy", bare, []string{"authorization: bearer " + token}, "", nobody, "", []string{"authorization: bearer " + token}, ""},
		{"more blanks", bare, []string{"authorization: Bearer   " + token}, "", alice, "", nil, ""},
		{"nothing behind the scheme", bare, []string{"authorization: Bearer "}, "", nobody, badFormat, []string{"authorization: Bearer "}, ""},
		{"no token behind the scheme", bare, []string{"authorization: Bearer x"}, "", nobody, badFormat, []string{"authorization: Bearer x"}, ""},
		{"a good and a bad one", bare, []string{"authorization: Bearer " + token, "authorization: Bearer " + old}, "", nobody, expired, []string{"authorization: Bearer " + token, "authorization: Bearer " + old}, ""},
		{"a good and a bad one, two places", bare, []string{"authorization: Bearer " + token}, "?access_token=" + old, nobody, expired, []string{"authorization: Bearer " + token}, "?access_token=" + old},
		{"two good ones", bare, []string{"authorization: Bearer " + token}, "?access_token=" + token, alice, "", nil, ""},
		{"header without prefix", custom, []string{"x-token: " + token}, "", alice, "", nil, ""},
		{"header with prefix", custom, []string{"x-auth: Token " + token}, "", alice, "", nil, ""},
		{"header without its prefix", custom, []string{"x-auth: " + token}, "", "", "", []string{"x-auth: " + token}, ""},
		{"empty header", custom, []string{"x-token: "}, "", nobody, badFormat, []string{"x-token: "}, ""},
		{"parameter", custom, nil, "?token=" + token, alice, "", nil, ""},
		{"cookie stays", custom, []string{"cookie: a=b; session=" + token}, "", alice, "", []string{"cookie: a=b; session=" + token}, ""},
		{"quoted cookie", custom, []string{`cookie: session="` + token + `"`}, "", alice, "", []string{`cookie: session="` + token + `"`}, ""},
		{"bad cookie", custom, []string{"cookie: session=x"}, "", nobody, badFormat, []string{"cookie: session=x"}, ""},
		{"default places are not looked at", custom, []string{"authorization: Bearer " + old}, "?access_token=" + old, nobody, "", []string{"authorization: Bearer " + old}, "?access_token=" + old},
		{"kept", keeps, []string{"x-token: " + token}, "?token=" + token, alice, "", []string{"x-token: " + token}, "?token=" + token},
		{"too many", custom, slices.Repeat([]string{"x-token: " + token}, maxTokens+1), "", nobody, tooMany, slices.Repeat([]string{"x-token: " + token}, maxTokens+1), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &Request{Method: "GET", Fields: fields(tc.headers...), Query: tc.query, Time: now}
			got, refused := filter(t, tc.provider).Check(r)
			if got.Principal() != tc.principal {
				t.Errorf("principal %q, want %q", got.Principal(), tc.principal)
			}
			if why := text(refused); why != string(tc.refused) {
				t.Errorf("refused: %q, want %q", why, tc.refused)
			}
			if left := texts(r.Fields); !slices.Equal(left, tc.left) || r.Query != tc.leftQuery {
				t.Errorf("the upstream gets %q %s\nwant %q %s", left, r.Query, tc.left, tc.leftQuery)
			}
		})
	}
}

func text(r interface{ Details() string }) string {
	s := fmt.Sprint(r)
	if s == "<nil>" {
		return ""
	}
	d := strings.TrimSuffix(strings.TrimPrefix(r.Details(), "jwt_authn_access_denied{"), "}")
	return strings.ReplaceAll(d, "_", " ")
}

// RA6: several rules are alternatives; a token must be somebody's.
func TestProviders(t *testing.T) {
	one, two := newIssuer(t), newIssuer(t)
	a := ir.JWTProvider{Name: "origins-0", Issuer: "a", Audiences: []string{"shop"}, Keys: one.keys(t), PayloadHeader: "x-a"}
	b := ir.JWTProvider{Name: "origins-1", Issuer: "b", Keys: two.keys(t), FromHeaders: []ir.JWTHeader{{Name: "authorization", Prefix: "Bearer "}, {Name: "x-b"}}, PayloadHeader: "x-b-payload"}
	from := func(i *issuer, iss string, c claims) string {
		c["iss"] = iss
		return i.sign(t, jose.ES256, good(c))
	}
	bearer := func(token string) []string { return []string{"authorization: Bearer " + token} }
	for _, tc := range []struct {
		name      string
		headers   []string
		principal string
		status    int
		refused   reason
	}{
		{"none", nil, "", 0, ""},
		{"the first's", bearer(from(one, "a", claims{})), "a/alice", 0, ""},
		{"the second's", bearer(from(two, "b", claims{})), "b/alice", 0, ""},
		{"the second's, elsewhere", []string{"x-b: " + from(two, "b", claims{})}, "b/alice", 0, ""},
		{"nobody's", bearer(from(one, "c", claims{})), "", 401, unknownIssuer},
		{"the first's with the second's key", bearer(from(two, "a", claims{})), "", 401, wrongSignature},
		{"the second's with the first's key", bearer(from(one, "b", claims{})), "", 401, wrongSignature},
		{"the first's, expired", bearer(from(one, "a", claims{"exp": in(-time.Hour)})), "", 401, expired},
		{"the first's, for another audience", bearer(from(one, "a", claims{"aud": "bank"})), "", 403, wrongAudience},
		{"the first's good, the second's bad: the first decides", append(bearer(from(one, "a", claims{})), "x-b: x"), "a/alice", 0, ""},
		{"the first's bad, the second's good: bad in a place of both", append(bearer("x"), "x-b: "+from(two, "b", claims{})), "", 401, badFormat},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &Request{Method: "GET", Fields: fields(append(tc.headers, "x-a: forged", "x-b-payload: forged")...), Time: now}
			got, refused := filter(t, a, b).Check(r)
			if got.Principal() != tc.principal || text(refused) != string(tc.refused) || refused != nil && refused.Status != tc.status {
				t.Errorf("have %q, %+v; want %q, %d %s", got.Principal(), refused, tc.principal, tc.status, tc.refused)
			}
			for _, name := range []string{"x-a", "x-b-payload"} {
				if r.Fields.First(name) == "forged" {
					t.Errorf("the caller's own %s reaches the upstream", name)
				}
			}
		})
	}
}

// A preflight has no credentials; what it forges is taken off all the same.
func TestPreflight(t *testing.T) {
	i := newIssuer(t)
	f := filter(t, ir.JWTProvider{Name: "origins-0", Issuer: "a", Keys: i.keys(t), PayloadHeader: "x-payload"})
	for _, tc := range []struct {
		method, second string
		passes         bool
	}{
		{"OPTIONS", "access-control-request-method: PUT", true},
		{"OPTIONS", "accept: x", false},
		{"GET", "access-control-request-method: PUT", false},
	} {
		r := &Request{Method: tc.method, Fields: fields("origin: https://a", tc.second, "authorization: Bearer bad", "x-payload: forged"), Time: now}
		token, refused := f.Check(r)
		if token != nil || (refused == nil) != tc.passes || r.Fields.Has("x-payload") {
			t.Errorf("%s with %s: token %v, refused %+v, headers %q", tc.method, tc.second, token, refused, texts(r.Fields))
		}
	}
}

// A request whose token is known already costs next to nothing.
func TestKnownTokenDoesNotAllocate(t *testing.T) {
	i := newIssuer(t)
	f := filter(t, ir.JWTProvider{Name: "origins-0", Issuer: "https://issuer.example.com", Keys: i.keys(t)})
	value := "Bearer " + i.sign(t, jose.ES256, good(nil))
	r := &Request{Method: "GET", Fields: &header.Map{}, Time: now}
	n := testing.AllocsPerRun(100, func() {
		r.Fields.Reset()
		r.Fields.Add("authorization", value)
		if token, refused := f.Check(r); token == nil || refused != nil {
			t.Fatal(refused)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	i := newIssuer(b)
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA} {
		f := filter(b, ir.JWTProvider{Name: "origins-0", Issuer: "https://issuer.example.com", Keys: i.keys(b)})
		value := "Bearer " + i.sign(b, alg, good(nil))
		for name, warm := range map[string]bool{"cold": false, "warm": true} {
			b.Run(string(alg)+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				r := &Request{Method: "GET", Fields: &header.Map{}, Time: now}
				for b.Loop() {
					if !warm {
						f.verifiers[0].cache.young, f.verifiers[0].cache.old = nil, nil
					}
					r.Fields.Reset()
					r.Fields.Add("authorization", value)
					if token, refused := f.Check(r); token == nil {
						b.Fatal(refused)
					}
				}
			})
		}
	}
}

// Whatever a caller sends, nothing is believed that is not signed, and the
// request stays one that can be sent on.
func FuzzCheck(f *testing.F) {
	i := newIssuer(f)
	one := filter(f, ir.JWTProvider{Name: "origins-0", Issuer: "https://issuer.example.com", Keys: i.keys(f), PayloadHeader: "x-payload",
		FromHeaders: []ir.JWTHeader{{Name: "authorization", Prefix: "Bearer "}, {Name: "x-token"}}, FromParams: []string{"token"}, FromCookies: []string{"session"}})
	good := i.sign(f, jose.ES256, good(nil))
	f.Add("Bearer "+good, "", "?token="+good+"&a=b", "session="+good)
	f.Add("Bearer x", raw(`{"alg":"none"}`, `{"iss":"https://issuer.example.com"}`, nil), "?token=%zz&token", `a; session="x"`)
	f.Add("", raw(`{"alg":"ES256","kid":"ec-ES256"}`, `{"exp":1e400}`, nil), "?&&=&", ";=;")
	f.Fuzz(func(t *testing.T, authorization, token, query, cookie string) {
		m := &header.Map{}
		for name, value := range map[string]string{"authorization": authorization, "x-token": token, "cookie": cookie} {
			if value != "" {
				m.Add(name, value)
			}
		}
		if query != "" && !strings.HasPrefix(query, "?") {
			query = "?" + query
		}
		r := &Request{Method: "GET", Fields: m, Query: query, Time: now}
		got, refused := one.Check(r)
		if got != nil && (refused != nil || got.Principal() != "https://issuer.example.com/alice") {
			t.Errorf("%+v, %+v", got, refused)
		}
		if got != nil && !strings.Contains(authorization+token+query+cookie, good[:40]) && !strings.Contains(query, "%") {
			t.Errorf("accepted without a token that is signed: %q %q %q %q", authorization, token, query, cookie)
		}
		if refused != nil && refused.Status != 401 {
			t.Errorf("%+v", refused)
		}
		if r.Query != "" && !strings.HasPrefix(r.Query, "?") || len(r.Query) > len(query) {
			t.Errorf("the query %q became %q", query, r.Query)
		}
	})
}
