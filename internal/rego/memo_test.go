package rego

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/authz"
)

// A remembered decision is the one that the policy would make now: it depends on
// all that the policy reads, and ends when a token begins or ceases to be valid.
func TestMemo(t *testing.T) {
	s := researchflow(t)
	i := newIssuer(t, s)
	p := mustCompile(t, s)
	if p.memo == nil {
		t.Fatal("decisions are not remembered")
	}
	d := NewDecider(p, nil, time.Minute)
	at := func(seconds int64, r *authz.External) bool {
		t.Helper()
		start := time.Unix(seconds, 0)
		key, again := d.question(nil, r)
		input, _, err := p.input(r, false)
		if err != nil || !again {
			t.Fatal(err, again)
		}
		v, _, err := d.decide(t.Context(), key, again, input, start)
		if err != nil {
			t.Fatal(err)
		}
		return v.Allow
	}
	r := apiRequest(i.token(t, func(c map[string]any) { c["nbf"], c["exp"] = 1000, 1030 }))
	for _, tc := range []struct {
		at   int64
		want bool
	}{{990, false}, {999, false}, {1000, true}, {1010, true}, {1029, true}, {1030, false}, {1031, false}, {1029, true}} {
		if got := at(tc.at, r); got != tc.want {
			t.Errorf("at %d: %v", tc.at, got)
		}
	}
	token := i.token(t, func(c map[string]any) { c["exp"] = 5000 })
	for _, tc := range []struct {
		name string
		edit func(r *authz.External)
		want bool
	}{
		{"as it is", func(*authz.External) {}, true},
		{"method", func(r *authz.External) { r.Method = "POST" }, false},
		{"path", func(r *authz.External) { r.Path = "/secrets" }, false},
		{"query", func(r *authz.External) { r.Path = "/api/jobs?limit=4" }, true},
		{"headers", func(r *authz.External) { r.Headers = nil }, false},
		{"body", func(r *authz.External) {
			r.Method, r.Path, r.Body = "POST", "/graphql", []byte(`{"query": "{ jobs { id } }"}`)
			before := r.Headers
			r.Headers = func(yield func(name, value string) bool) { before(yield); yield("content-type", "application/json") }
		}, true},
		{"another body", func(r *authz.External) {
			r.Method, r.Path, r.Body = "POST", "/graphql", []byte(`{"query": "mutation { x }"}`)
			before := r.Headers
			r.Headers = func(yield func(name, value string) bool) { before(yield); yield("content-type", "application/json") }
		}, false},
		{"as it was", func(*authz.External) {}, true},
	} {
		r := apiRequest(token)
		tc.edit(r)
		for range 2 {
			if got := at(4000, r); got != tc.want {
				t.Errorf("%s: %v", tc.name, got)
			}
		}
	}
}

// Requests that a policy can tell apart are never taken for the same.
func TestQuestionsDiffer(t *testing.T) {
	body := strings.Repeat("b", 119) // a length whose encoding is the letter w
	with := func(text string, headers ...string) *authz.External {
		r := request(headers...)
		if text != "" {
			r.Body = []byte(text)
		}
		return r
	}
	raw := with("x")
	raw.RawBody = true
	for _, c := range []struct {
		rule string
		a, b *authz.External
	}{
		{`allow if { some h, v in input.attributes.request.http.headers; v == input.parsed_body }`, with("", "body", body), with(body)},
		{`allow if input.attributes.request.http.headers[_] == "b"`, with("", "a", "b"), with("", "a", "", "", "b")},
		{`allow if input.truncated_body`, with("", "content-length", "9"), with("")},
		{`allow if input.attributes.request.http.size > 0`, with("x"), with("")},
		{`allow if input.attributes.request.http.rawBody`, with("x"), raw},
	} {
		d := NewDecider(mustCompile(t, spec("package envoy.authz\n"+c.rule)), nil, 0)
		a, again := d.question(nil, c.a)
		b, _ := d.question(nil, c.b)
		if again && bytes.Equal(a, b) {
			t.Errorf("%s: both are %q", c.rule, a)
		}
	}
}

// What looks elsewhere than at its input and data is decided each time.
func TestMemoOnlyWhereDeterministic(t *testing.T) {
	for rule, want := range map[string]bool{
		`allow if input.attributes.request.http.method == "GET"`:          true,
		`allow if time.now_ns() > 0`:                                      false,
		`allow if { x := [time.now_ns()]; x[0] > 0 }`:                     false,
		`allow if rand.intn("x", 2) == 1`:                                 false,
		`allow if http.send({"method": "GET", "url": "http://a"}).status`: false,
		`allow if opa.runtime().env`:                                      false,
		`allow if crypto.x509.parse_and_verify_certificates(input.c)[0]`:  false,
		"f(x) := y if y := x + time.now_ns()\nallow if f(1) > 0":          false,
		`allow if io.jwt.decode_verify(input.t, {"cert": data.c})[0]`:     true,
		`allow if count([1 | time.now_ns() > 0]) == 1`:                    false,
	} {
		if p := mustCompile(t, spec("package envoy.authz\n"+rule)); (p.memo != nil) != want {
			t.Errorf("%s: remembered %v", rule, p.memo != nil)
		}
	}
	for rule, want := range map[string]bool{
		`allow if input.attributes.request.http.method == "GET"`:         true,
		`allow if input.attributes.request.http.id`:                      false,
		`allow if input.attributes.request.time.seconds > 0`:             false,
		`allow if input.attributes.source.address.socketAddress.address`: false,
		`allow if input.attributes.source.principal`:                     true,
		`allow if json.marshal(input)`:                                   false,
	} {
		p := mustCompile(t, spec("package envoy.authz\n"+rule))
		if _, again := NewDecider(p, nil, 0).question(nil, request()); again != want {
			t.Errorf("%s: asked again %v", rule, again)
		}
	}
}

// What is remembered outlives the buffer that a request's strings lie in: the
// next request of the connection is written over it.
func TestRememberedOutlivesBuffer(t *testing.T) {
	p := mustCompile(t, spec(`package envoy.authz
allow := {"allowed": true, "headers": {"x-who": input.attributes.request.http.headers["x-user"]}}`))
	if p.memo == nil {
		t.Fatal("decisions are not remembered")
	}
	d := NewDecider(p, nil, time.Minute)
	ask := func(user string) string {
		r := &authz.External{HTTP: true, Method: "GET", Path: "/", Headers: func(yield func(name, value string) bool) { yield("x-user", user) }}
		v := d.Check(t.Context(), r)
		if v.Err != nil || len(v.Headers) != 1 {
			t.Fatalf("%+v", v)
		}
		return v.Headers[0].Value
	}
	buffer := []byte("alice")
	ask(unsafe.String(&buffer[0], len(buffer)))
	copy(buffer, "mandy")
	if got := ask("alice"); got != "alice" {
		t.Errorf("alice is passed on as %q", got)
	}
}

// A token ends when its exp says so, whatever claims look like exp.
func TestMemoOfOddClaims(t *testing.T) {
	s := researchflow(t)
	i := newIssuer(t, s)
	for name, more := range map[string]string{"another case": `"Exp": 9000`, "too large for a float": `"EXP": 1e999`} {
		t.Run(name, func(t *testing.T) {
			o, err := i.signer.Sign([]byte(`{"iss": "https://researchflow.example", "aud": "researchflow-api", "sub": "vera", "roles": ["viewer"], "exp": 1030, ` + more + `}`))
			if err != nil {
				t.Fatal(err)
			}
			token, err := o.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			d, r := NewDecider(mustCompile(t, s), nil, time.Minute), apiRequest(token)
			for _, tc := range []struct {
				at   int64
				want bool
			}{{1010, true}, {1029, true}, {1031, false}} {
				key, again := d.question(nil, r)
				input, _, err := d.policy.input(r, false)
				if err != nil || !again {
					t.Fatal(err, again)
				}
				if v, _, err := d.decide(t.Context(), key, again, input, time.Unix(tc.at, 0)); err != nil || v.Allow != tc.want {
					t.Errorf("at %d: %v %v", tc.at, v.Allow, err)
				}
			}
		})
	}
}
