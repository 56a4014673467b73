package rego

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// plain is the policy evaluated as it is written, with nothing remembered.
func plain(t testing.TB, s *ir.Rego) *Policy {
	t.Helper()
	p, err := compile(s, func(c *ast.Compiler, _ storage.Store) *ast.Compiler { return c })
	if err != nil {
		t.Fatal(err)
	}
	p.tokens, p.memo, p.tokenRules = nil, nil, nil
	return p
}

// What is constant is computed once, and what is not certain stays as written.
func TestPartial(t *testing.T) {
	const data = `{"d": {"n": 7, "list": ["a", "b"], "flag": false}, "jwks": {"keys": []}}`
	for _, tc := range []struct{ name, rules, made string }{
		{"a call on data", `allow if input.t == json.marshal(data.jwks)`, `allow = true if { input.t = "{\"keys\":[]}" }`},
		{"a name of the input", "h := input.h\nallow if h.a == \"x\"", `allow = true if { input.h.a = "x" }`},
		{"a name of a name", "h := input.h\na := h.a\nallow if a", `allow = true if { input.h.a }`},
		{"a rule that is a constant", "m := {\"x\": {\"y\"}}\nallow if input.a in m.x", `, {"y"})`},
		{"calls on calls", `allow if input.a == concat("", [upper("x"), "y"])`, `concat("", ["X", "y"], `},
		{"a condition that is false", `allow if data.d.flag`, `allow = true if { false }`},
		{"a rule that becomes a constant", "n := count(data.d.list)\nallow if input.n == n", `allow = true if { input.n = 2 }`},
		{"in a comprehension", `allow if count([x | some x in input.l; x == data.d.n]) > 1`, `= 7`},
		{"a call that fails", `allow if input.a == json.unmarshal("{")`, `json.unmarshal("{", `},
		{"chance", `allow if input.a == rand.intn("x", 9)`, `rand.intn("x", 9, `},
		{"the clock", `allow if input.a == time.now_ns()`, `time.now_ns(`},
		{"the process", `allow if input.a == opa.runtime().version`, `opa.runtime(`},
		{"no such data", `allow if input.a == data.none`, `data.none`},
		{"a variable reference", "m := {\"x\": 1}\nallow if m[input.k]", `data.envoy.authz.m[`},
		{"an argument that is compared", "f(x) if x == 1\nallow if f(input.a)", `__ = 1 }`},
		{"what is large", `allow if count(numbers.range(1, 90000)) == input.n`, `numbers.range(1, 90000, `},
		{"a constant that is looked into", "h := input.h\nallow if { m := {\"x\": true}; m[input.k]; h.a }", `= {"x": true}; `},
		{"a variable that is used before", `allow if { some x; input.l[x] == 1; x = 7 }`, `__ = 7`},
		{"an element of a list", `allow if input.a == data.d.list[0]`, `data.d.list[0]`},
		// Not certain: as written.
		{"with", "h := input.h\nallow if h.a == \"x\"\nb if allow with input as {}", `data.envoy.authz.h.a = "x"`},
		{"a conflict", "h := input.h\nallow if h.a == \"x\"\nv := 1 if input.a\nv := 2 if input.b", `data.envoy.authz.h.a = "x"`},
		{"two values of one rule", "h := input.h\nallow if h.a == \"x\"\nv := x if some x in input.l", `data.envoy.authz.h.a = "x"`},
		{"walk", "h := input.h\nallow if h.a == \"x\"\nv := x if walk(input, [_, x])", `data.envoy.authz.h.a = "x"`},
		{"a partial object", "h := input.h\nallow if h.a == \"x\"\nv[k] := x if some k, x in input.l", `data.envoy.authz.h.a = "x"`},
		{"an object comprehension", "h := input.h\nallow if h.a == \"x\"\nv := {k: x | some x, k in input.l}", `data.envoy.authz.h.a = "x"`},
		{"rules and data in one", "h := input.h\nallow if h.a == \"x\"\nb.c := 1\nv if b[input.k]", `data.envoy.authz.h.a = "x"`},
		{"a function of two values", "h := input.h\nallow if h.a == \"x\"\nf(x) := 1 if x\nf(x) := 2 if not x", `data.envoy.authz.h.a = "x"`},
	} {
		s := spec("package envoy.authz\n" + tc.rules)
		s.Data = data
		if got := text(mustCompile(t, s).compiler); !strings.Contains(got, tc.made) {
			t.Errorf("%s:\n%s\nlacks %s", tc.name, got, tc.made)
		}
	}
}

// decides are policies of every kind; what they read of the request varies.
var decides = []string{
	`default allow := false
allow if { http.method == "GET"; "x-user" in object.keys(http.headers) }
http := input.attributes.request.http`,
	`allow := {"allowed": ok, "headers": {"x-n": format_int(count(data.list), 10)}}
default ok := false
ok if input.parsed_path[0] == data.first`,
	`allow if level == 2
level := 1 if method == "POST"
else := 2 if method == "GET"
else := 3
method := input.attributes.request.http.method`,
	`allow := 1 if input.attributes.request.http.method == "GET"
allow := true if input.parsed_path[0] == "b"`, // a conflict, or no decision that is well formed
	`allow if { v == 1; method == "GET" }
v := x if some x in [1, 2]
method := input.attributes.request.http.method`,
	`allow if rank(input.attributes.request.http.method) > 1
rank(m) := 2 if m == "GET"
rank(m) := 1 if m == "POST"`,
	`allow if { every p in input.parsed_path { p in data.list } }`,
	`allow if { some h, v in input.attributes.request.http.headers; startswith(h, prefix); v == data.first }
prefix := concat("-", ["x", ""])`,
	`allow if obj.GET
obj[m] := n if some n, m in data.methods
`,
	`allow if count({p: i | some i, p in input.parsed_path}) == 1`,
	`allow if inner with input as {"attributes": {"request": {"http": {"method": data.methods[0]}}}}
inner if method == "GET"
method := input.attributes.request.http.method`,
	`allow if inner with data.first as "z"
inner if input.parsed_path[0] == data.first`,
	`allow if { walk(input.parsed_path, [_, x]); x == data.first }`,
	`allow if not denied
denied contains m if { some m in data.methods; m != input.attributes.request.http.method }
denied contains "path" if input.parsed_path[0] != data.first`,
	`allow if time.now_ns() == 1700000000000000000`,
	`allow if { n := rand.intn("x", 1); n == 0; input.parsed_path[0] == data.first }`,
	`allow if opa.runtime().nothing`,
	`allow if to_number(data.first) == 1`,
	`allow if json.unmarshal(data.broken).a`,
	`allow if parts[input.parsed_path[0]]
parts.b := data.first == "b"
parts.c := false`,
	`allow := data.flag`,
	`default allow := {"allowed": false, "http_status": 404}
allow := {"allowed": true} if sets & {"GET"} != set()
sets := {m | some m in data.methods} & {input.attributes.request.http.method}`,
	`allow if trim_prefix(input.attributes.request.http.path, "/") == lower(upper(data.first))`,
	`allow if input.attributes.request.http.headers["x-user"] == data.users[input.parsed_path[0]].name`,
}

// A policy decides alike, or fails alike, whether it is evaluated as written or
// in part beforehand with what was remembered of it.
func TestDecidesAsWritten(t *testing.T) {
	const data = `{"list": ["b", "c"], "first": "b", "methods": ["GET", "POST"], "flag": true, "broken": "{", "users": {"b": {"name": "vera"}}}`
	changed := 0
	for _, rules := range decides {
		s := spec("package envoy.authz\n" + rules)
		s.Data = data
		p, want := mustCompile(t, s), plain(t, s)
		if text(p.compiler) != text(want.compiler) {
			changed++
		}
		for round := range 2 {
			for _, r := range variants() {
				a, b := verdict(t, p, r), verdict(t, want, r)
				if a != b {
					t.Errorf("%s\n%s %s, round %d: %s\nas written: %s", rules, r.Method, r.Path, round, a, b)
				}
			}
		}
	}
	if changed < len(decides)/3 {
		t.Errorf("%d of %d policies were evaluated in part", changed, len(decides))
	}
}

func variants() (out []*authz.External) {
	for _, method := range []string{"GET", "POST"} {
		for _, path := range []string{"/b", "/b/c", "/c/c", "/"} {
			for _, headers := range [][]string{nil, {"x-user", "vera"}, {"x-a", "b"}} {
				r := request(headers...)
				r.Method, r.Path = method, path
				out = append(out, r)
			}
		}
	}
	return out
}

func verdict(t *testing.T, p *Policy, r *authz.External) string {
	t.Helper()
	d := NewDecider(p, nil, time.Minute)
	key, again := d.question(nil, r)
	input, _, err := p.input(r, false)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := d.decide(t.Context(), key, again, input, time.Unix(1_700_000_000, 0))
	return fmt.Sprint(v, err)
}

// Tokens of all kinds, at all times and for all paths, have the decision that
// the policy as written would make then, in whatever order they are asked.
func TestTokenRules(t *testing.T) {
	s := researchflow(t)
	i := newIssuer(t, s)
	p, want := mustCompile(t, s), plain(t, s)
	if len(p.tokenRules) != 2 {
		t.Fatalf("rules made of tokens: %v", p.tokenRules)
	}
	d := NewDecider(p, nil, time.Minute)
	tokens := []string{"", "no token", i.token(t, func(c map[string]any) { c["nbf"], c["exp"] = 1000, 1030 }),
		i.token(t, func(c map[string]any) { c["nbf"], c["exp"], c["roles"] = 900, 1020, []string{"admin"} }),
		i.token(t, func(c map[string]any) { c["exp"], c["iss"] = 5000, "another" }),
		newIssuer(t, researchflow(t)).token(t, nil)}
	allowed := 0
	for _, at := range []int64{950, 999, 1000, 1019, 1020, 1029, 1030, 1025, 990} {
		for _, path := range []string{"/api/jobs", "/api/admin/x", fmt.Sprint("/api/", at)} {
			for _, token := range tokens {
				r := apiRequest(token)
				r.Path = path
				input, _, err := p.input(r, false)
				if err != nil {
					t.Fatal(err)
				}
				now := time.Unix(at, 0)
				as, asErr := want.eval(t.Context(), want.decide, input, now, time.Time{})
				key, again := d.question(nil, r)
				decided, _, err := d.decide(t.Context(), key, again, input, now) // with remembered decisions
				if err != nil || asErr != nil || ast.Boolean(decided.Allow).Compare(as) != 0 {
					t.Errorf("%s at %d, %q: decides %v %v, as written %v %v", path, at, token, decided.Allow, err, as, asErr)
				}
				if got, err := p.eval(t.Context(), p.decide, input, now, time.Time{}); err != nil || got.Compare(as) != 0 {
					t.Errorf("%s at %d, %q: %v %v, as written %v", path, at, token, got, err, as)
				}
				if as.Compare(ast.Boolean(true)) == 0 {
					allowed++
				}
			}
		}
	}
	if allowed < 20 {
		t.Errorf("%d allowed", allowed)
	}
	// The same, and the second time without a look into the token.
	r := apiRequest(i.token(t, nil))
	d.Check(t.Context(), r)
	p.tokens.jwt = bucket{limit: maxTokens}
	if r.Path = "/api/other"; !d.Check(t.Context(), r).Allow || p.tokens.jwt.size != 0 {
		t.Errorf("a token that was known was verified again")
	}
}

// Several rules of one token are not taken for each other.
func TestTokenRulesDiffer(t *testing.T) {
	s := spec(`package envoy.authz
allow if { input.parsed_path[0] == "sub"; claims.sub == "vera" }
allow if { input.parsed_path[0] == "role"; "viewer" in roles }
roles contains r if some r in claims.roles
claims := io.jwt.decode_verify(input.attributes.request.http.headers.authorization, {"cert": json.marshal(data.jwks), "alg": "ES256", "aud": "researchflow-api"})[2]`)
	i := newIssuer(t, s)
	d := NewDecider(mustCompile(t, s), nil, time.Minute)
	token := i.token(t, nil)
	for _, path := range []string{"/role", "/sub", "/role/b", "/sub/b"} {
		r := request("authorization", token)
		if r.Path = path; !d.Check(t.Context(), r).Allow {
			t.Errorf("%s is denied", path)
		}
	}
}

// Which rules are made of a token and of named headers alone.
func TestTokenRulesFound(t *testing.T) {
	const claims = "claims := io.jwt.decode_verify(input.attributes.request.http.headers.authorization, {\"cert\": data.c})[2]\n"
	for rules, want := range map[string]string{
		claims + "allow if claims.a":                                                                                "[data.envoy.authz.allow data.envoy.authz.claims]",
		claims + `allow if claims.a == input.parsed_path[0]`:                                                        "[data.envoy.authz.claims]",
		claims + "allow if who.a\nwho := claims if input.attributes.request.http.headers.x":                         "[data.envoy.authz.allow data.envoy.authz.claims data.envoy.authz.who]",
		claims + "allow if f(input.parsed_path)\nf(p) if claims[p[0]]":                                              "[data.envoy.authz.claims]",
		claims + "allow if claims.a\nallow if rand.intn(\"x\", 2) == 1":                                             "[]",
		claims + "allow if claims.a\nv := 1 if input.a\nv := 2 if input.b":                                          "[]",
		`allow if input.attributes.request.http.headers.authorization`:                                              "[]",
		`allow if io.jwt.decode_verify(input.t, {"cert": data.c})[0]`:                                               "[]",
		`allow if { some h in input.attributes.request.http.headers; io.jwt.decode_verify(h, {"cert": data.c})[0]}`: "[]",
	} {
		found := []string{}
		for _, r := range mustCompile(t, spec("package envoy.authz\n"+rules)).tokenRules {
			found = append(found, r.ref.String())
		}
		if fmt.Sprint(found) != want {
			t.Errorf("%s: %v, want %s", rules, found, want)
		}
	}
}

// Nothing is asked of the network while a policy is compiled, and something for
// each decision.
func TestPartialAsksNobody(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(204)
	}))
	defer server.Close()
	s := spec(`package envoy.authz
url := data.url
allow if http.send({"method": "GET", "url": url}).status_code == 204`)
	s.Data = fmt.Sprintf(`{"url": %q}`, server.URL)
	p := mustCompile(t, s)
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times while compiling", n)
	}
	for range 2 {
		if v := NewDecider(p, nil, time.Minute).Check(t.Context(), request()); !v.Allow {
			t.Errorf("%+v", v)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times for two decisions", n)
	}
}
