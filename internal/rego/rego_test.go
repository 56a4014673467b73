package rego

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

func spec(text string) *ir.Rego {
	return &ir.Rego{Name: "test", Query: Query(""), Modules: map[string]string{"policy.rego": text}}
}

func mustCompile(t testing.TB, s *ir.Rego) *Policy {
	t.Helper()
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func request(headers ...string) *authz.External {
	return &authz.External{HTTP: true, Method: "GET", Scheme: "http", Host: "api", Path: "/a%20b/c?x=1&x=2&y", Protocol: "HTTP/1.1", ID: "7",
		SourceAddress: netip.MustParseAddrPort("10.0.0.1:99"), DestinationAddress: netip.MustParseAddrPort("10.0.0.2:80"), SourcePrincipal: "spiffe://a", Time: time.Unix(5, 6),
		Headers: func(yield func(name, value string) bool) {
			for i := 0; i < len(headers); i += 2 {
				if !yield(headers[i], headers[i+1]) {
					return
				}
			}
		}}
}

// Every form of decision means what opa-envoy-plugin takes it for.
func TestDecisions(t *testing.T) {
	h := func(name, value string) []ir.Header { return []ir.Header{{Name: name, Value: value}} }
	for _, tc := range []struct {
		rule string
		want authz.Verdict
		err  string
	}{
		{`allow := true`, authz.Verdict{Allow: true}, ""},
		{`allow := false`, authz.Verdict{}, ""},
		{`allow := {"allowed": true, "headers": {"X-User": "v", "x-list": ["a", "b"]}, "request_headers_to_remove": ["Cookie"], "response_headers_to_add": [{"x-r": "1"}, {"x-r": "2"}],
			"query_parameters_to_set": {"a b": "1&2"}, "query_parameters_to_remove": ["z"], "dynamic_metadata": {"tier": "gold"}, "body": "ignored"}`,
			authz.Verdict{Allow: true, Headers: []ir.Header{{Name: "x-user", Value: "v"}, {Name: "x-list", Value: "a"}, {Name: "x-list", Value: "b"}}, RemoveHeaders: []string{"cookie"},
				ResponseHeaders: []authz.ResponseHeader{{Header: h("x-r", "1")[0]}, {Header: h("x-r", "2")[0]}}, SetQuery: h("a+b", "1%262"), RemoveQuery: []string{"z"}, Metadata: map[string]any{"tier": "gold"}}, ""},
		{`allow := {"allowed": false, "http_status": 401, "body": "who?", "headers": {"www-authenticate": "Bearer"}}`, authz.Verdict{Status: 401, Body: "who?", Headers: h("www-authenticate", "Bearer")}, ""},
		{`allow if input.never`, authz.Verdict{}, "undefined"},
		{`allow := 1`, authz.Verdict{}, "neither a boolean nor an object"},
		{`allow := {"headers": {}}`, authz.Verdict{}, "allowed is missing"},
		{`allow := {"allowed": "yes"}`, authz.Verdict{}, "allowed is missing or not a boolean"},
		{`allow := {"allowed": false, "http_status": 999}`, authz.Verdict{}, "not a status"},
		{`allow := {"allowed": true, "headers": {"a": 1}}`, authz.Verdict{}, "headers.a is neither"},
		{`allow := {"allowed": true, "headers": {"a": "x\r\nb: y"}}`, authz.Verdict{}, "sets header"},
		{`allow := {"allowed": true, "headers": {":path": "/admin"}}`, authz.Verdict{}, "sets header"},
		{`allow := to_number("x") == 1`, authz.Verdict{}, "undefined"},
		{"allow := true if input.attributes\nallow := false if input.attributes", authz.Verdict{}, "conflict"},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			p := mustCompile(t, spec("package envoy.authz\n"+tc.rule))
			got := NewDecider(p, nil, 0).Check(t.Context(), request())
			if got.Err == nil != (tc.err == "") || got.Err != nil && !strings.Contains(got.Err.Error(), tc.err) {
				t.Fatalf("error %v, want %q", got.Err, tc.err)
			}
			got.Err = nil
			if len(got.Headers) > 1 && got.Headers[0].Name == "x-list" { // names come in the order of their letters
				got.Headers = append(got.Headers[2:], got.Headers[:2]...)
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("verdict %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// Each way to have no decision has a setting of its own; the default denies,
// whatever failOpen says.
func TestFailureContract(t *testing.T) {
	const undefined, broken = "allow if input.never", "allow := {}"
	const slow = "allow if { some i in numbers.range(1, 3000); some j in numbers.range(1, 3000); i * j == -1 }"
	for _, tc := range []struct {
		name, rule string
		edit       func(r *ir.Rego)
		allow      bool
		err        bool
	}{
		{"undefined", undefined, func(*ir.Rego) {}, false, false},
		{"undefined allows", undefined, func(r *ir.Rego) { r.OnUndefined = ir.RegoAllow }, true, false},
		{"undefined fails", undefined, func(r *ir.Rego) { r.OnUndefined = ir.RegoFail }, false, true},
		{"error", broken, func(r *ir.Rego) { r.OnUndefined, r.OnTimeout = ir.RegoAllow, ir.RegoAllow }, false, false},
		{"error allows", broken, func(r *ir.Rego) { r.OnError = ir.RegoAllow }, true, false},
		{"error fails", broken, func(r *ir.Rego) { r.OnError = ir.RegoFail }, false, true},
		{"timeout", slow, func(r *ir.Rego) { r.OnUndefined, r.OnError = ir.RegoAllow, ir.RegoAllow }, false, false},
		{"timeout allows", slow, func(r *ir.Rego) { r.OnTimeout = ir.RegoAllow }, true, false},
		{"timeout fails", slow, func(r *ir.Rego) { r.OnTimeout = ir.RegoFail }, false, true},
		{"dry run", "allow := false", func(r *ir.Rego) { r.DryRun = true }, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := spec("package envoy.authz\n" + tc.rule)
			tc.edit(s)
			p, err := NewHost(nil, slog.New(slog.DiscardHandler)).Provider(&ir.ExtAuthz{Rego: s, Timeout: ir.Duration(20 * time.Millisecond)})
			if err != nil {
				t.Fatal(err)
			}
			got := p.Check(t.Context(), request())
			if got.Allow != tc.allow || (got.Err != nil) != tc.err {
				t.Errorf("verdict %+v", got)
			}
		})
	}
}

// A host compiles a policy once while anybody uses it.
func TestHostShares(t *testing.T) {
	h := NewHost(nil, slog.New(slog.DiscardHandler))
	s := spec("package envoy.authz\nallow := true")
	a, err := h.Provider(&ir.ExtAuthz{Rego: s, Timeout: 1})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := h.Provider(&ir.ExtAuthz{Rego: s, Timeout: 2})
	if a.(*Decider).policy != b.(*Decider).policy {
		t.Error("compiled twice")
	}
	a.(*Decider).Close()
	if len(h.policies) != 1 {
		t.Error("a policy in use was dropped")
	}
	b.(*Decider).Close()
	if len(h.policies) != 0 {
		t.Error("a policy nobody uses was kept")
	}
	s.Modules = map[string]string{"policy.rego": "package envoy.authz\nallow := {"}
	if _, err := h.Provider(&ir.ExtAuthz{Rego: s}); err == nil || !strings.Contains(err.Error(), "policy.rego:2") {
		t.Errorf("a broken policy: %v", err)
	}
}

// What a policy reads is what it gets, and no more is made.
func TestNeeds(t *testing.T) {
	r := request("cookie", "a=b", "x-user", "v", "x-user", "w")
	r.Body = []byte(`{"a": 1}`)
	for _, tc := range []struct{ rules, want string }{
		{`allow if input.attributes.request.http.method == "GET"`, `{"attributes":{"request":{"http":{"method":"GET"}}},"parsed_body":null,"truncated_body":false}`},
		{`allow if input.attributes.request.http.headers["x-user"] == "v"`, `{"attributes":{"request":{"http":{"headers":{"x-user":"v,w"}}}},"parsed_body":null,"truncated_body":false}`},
		{"h := input.attributes.request.http.headers\nallow if h.cookie", `{"attributes":{"request":{"http":{"headers":{"cookie":"a=b"}}}},"parsed_body":null,"truncated_body":false}`},
		{"allow if { some k; input.attributes.request.http.headers[k] == \"v\" }", `{"attributes":{"request":{"http":{"headers":{":authority":"api",":method":"GET",":path":"/a%20b/c?x=1\u0026x=2\u0026y",":scheme":"http","cookie":"a=b","x-envoy-auth-partial-body":"false","x-user":"v,w"}}}},"parsed_body":null,"truncated_body":false}`},
		{"http := input.attributes.request.http\nm := http.method\nallow if m == \"GET\"", `{"attributes":{"request":{"http":{"method":"GET"}}},"parsed_body":null,"truncated_body":false}`},
		{`allow if input.parsed_path[1] == "c"`, `{"parsed_body":null,"parsed_path":["a b","c"],"truncated_body":false}`},
		{`allow if some x in input.parsed_query.x`, `{"parsed_body":null,"parsed_query":{"x":["1","2"],"y":[""]},"truncated_body":false}`},
		{`allow if input.attributes.source.address.socketAddress.portValue == 99`, `{"attributes":{"source":{"address":{"socketAddress":{"address":"10.0.0.1","portValue":99}},"principal":"spiffe://a"}},"parsed_body":null,"truncated_body":false}`},
	} {
		p := mustCompile(t, spec("package envoy.authz\n"+tc.rules))
		_, doc, err := p.input(r, false)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(doc); string(b) != tc.want {
			t.Errorf("%s\nmakes %s\nwant  %s", tc.rules, b, tc.want)
		}
	}
	whole, err := Document(r, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, rules := range []string{"allow if json.marshal(input)", "f(x) := x.attributes\nallow if f(input)", "k := \"attributes\"\nallow if input[k]", `allow if walk(input, [["a"], 1])`, "allow if { some k; input[k] }",
		"http := input\nallow if data.envoy.authz.http",
		"http := input\nf(x) := x\nallow if f(http)", "http := input\nallow if { y := http; y.version }",
		"allow if { x := input; x.version }", "allow if data.envoy.authz.b with input as {\"a\": input}\nb := input.a"} {
		p := mustCompile(t, spec("package envoy.authz\n"+rules))
		if _, doc, _ := p.input(r, false); !reflect.DeepEqual(doc, whole) {
			t.Errorf("%s\ngets a part of the input only: %v", rules, doc)
		}
	}
}

// Bodies, forms and paths are read as the plugin reads them, or refused.
func TestDocument(t *testing.T) {
	for _, tc := range []struct {
		kind, body, path string
		truncated        bool
		want             string // of parsed_body, truncated_body, parsed_path
	}{
		{"application/json", `{"a": 1.0}`, "/", false, `[{"a":1.0},false,[""]]`},
		{"application/json", `{"a": `, "/a", true, `[null,true,["a"]]`},
		{"application/json", `{"a": `, "/a", false, "error"},
		{"application/x-www-form-urlencoded", `a=1&a=2`, "//a/b/", false, `[{"a":["1","2"]},false,["a","b",""]]`},
		{"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nv\r\n--x--\r\n", "/a", false, `[{"f":["v"]},false,["a"]]`},
		{"text/plain", `{`, "/a", false, `[null,false,["a"]]`},
		{"", ``, "/%zz", false, "error"},
		{"", ``, "/a%2Fb", false, `[null,false,["a","b"]]`},
	} {
		r := request("content-type", tc.kind)
		r.Body, r.BodyTruncated, r.Path = []byte(tc.body), tc.truncated, tc.path
		doc, err := Document(r, false)
		got := "error"
		if err == nil {
			b, _ := json.Marshal([]any{doc["parsed_body"], doc["truncated_body"], doc["parsed_path"]})
			got = string(b)
		}
		if got != tc.want {
			t.Errorf("%s %q %s: %s, want %s", tc.kind, tc.body, tc.path, got, tc.want)
		}
	}
}

// The decision log has OPA's events without what is secret.
func TestDecisionLog(t *testing.T) {
	var out bytes.Buffer
	s := spec("package envoy.authz\nallow := {\"allowed\": false, \"body\": \"b\"}\n")
	s.Modules["log.rego"] = `package system.log
mask contains "/input/attributes/request/http/path"
mask contains {"op": "upsert", "path": "/result/body", "value": "X"} if input.result.body
drop if input.input.attributes.request.http.method == "HEAD"`
	s.DecisionLog, s.Labels = true, map[string]string{"app": "shop"}
	p, err := NewHost(&out, slog.New(slog.DiscardHandler)).Provider(&ir.ExtAuthz{Rego: s})
	if err != nil {
		t.Fatal(err)
	}
	head := request()
	head.Method = "HEAD"
	p.Check(t.Context(), head)
	if out.Len() > 0 {
		t.Errorf("dropped, and written: %s", out.String())
	}
	v := p.Check(t.Context(), request("authorization", "Bearer secret", "cookie", "secret", "x-api-key", "secret", "x-user", "vera"))
	line := out.String()
	var event map[string]any
	if err := json.Unmarshal(out.Bytes(), &event); err != nil {
		t.Fatal(err, line)
	}
	if strings.Contains(line, "secret") || strings.Contains(line, `"path":"/a`) || !strings.Contains(line, "vera") || !strings.Contains(line, `"body":"X"`) {
		t.Error(line)
	}
	if event["decision_id"] != v.Detail || v.Detail == "" || v.Metadata["decision_id"] != v.Detail || event["path"] != "envoy/authz/allow" || !reflect.DeepEqual(event["labels"], map[string]any{"app": "shop"}) || len(event["erased"].([]any)) != 4 {
		t.Errorf("verdict %+v, event %v", v, event)
	}
	s.Modules["log.rego"] = "package system.log\nmask := 1 if input.result\nmask := 2 if input.result"
	out.Reset()
	p2, err := NewHost(&out, slog.New(slog.DiscardHandler)).Provider(&ir.ExtAuthz{Rego: s})
	if err != nil {
		t.Fatal(err)
	}
	if p2.Check(t.Context(), request("x-user", "vera")); strings.Contains(out.String(), "vera") {
		t.Errorf("the mask failed and the input was written: %s", out.String())
	}
}

// Numbers of a data document are not rounded.
func TestParseData(t *testing.T) {
	for _, text := range []string{`{"id": 9007199254740993}`, "id: 9007199254740993\n"} {
		doc, err := ParseData([]byte(text))
		if b, _ := json.Marshal(doc); err != nil || string(b) != `{"id":9007199254740993}` {
			t.Errorf("%s becomes %s %v", text, b, err)
		}
	}
}

// A denial can show what it was made of, without secrets.
func TestEvidence(t *testing.T) {
	p, err := NewHost(nil, slog.New(slog.DiscardHandler)).Provider(&ir.ExtAuthz{Rego: spec("package envoy.authz\nallow := {\"allowed\": false, \"body\": \"no\"} if input.attributes.request.http.method")})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time the decision is remembered
		v := p.Check(t.Context(), request("authorization", "Bearer secret", "x-user", "vera"))
		input, result := v.Evidence()
		if s := string(input); !strings.Contains(s, `"x-user":"vera"`) || !strings.Contains(s, `"method":"GET"`) || strings.Contains(s, "secret") {
			t.Errorf("input %s", s)
		}
		if string(result) != `{"allowed":false,"body":"no"}` {
			t.Errorf("result %s", result)
		}
	}
}

const base = "../../infrastructure/kubernetes/base/opa/"

func researchflow(t testing.TB) *ir.Rego {
	t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(base + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	s := spec(read("policy.rego"))
	s.Data = read("data.json")
	return s
}
