package opa

import (
	"context"
	"encoding/json"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/rego"
)

// A real OPA server, our ext_authz server and the engine in the sidecar decide
// ResearchFlow's table alike, and as the table says.
func TestSameDecisions(t *testing.T) {
	policy := read(t, manifests+"policy.rego")
	tokens, data := newTokens(t)
	dir := write(t, map[string]string{"policy.rego": policy, "data.json": data})
	real := realOPA(t, server(t), dir)
	remote, local := client(t, ours(t, dir)), sidecar(t, policy, data)
	list := questions()
	if len(list) < 250 {
		t.Errorf("%d questions", len(list))
	}
	allowed := 0
	for i := range list {
		q := &list[i]
		r := q.external(tokens)
		name := strings.Join([]string{q.token, q.method, q.path, q.body}, " ")
		doc, err := rego.Document(r, false)
		if (err != nil) != q.refused {
			t.Errorf("%s: the document: %v", name, err)
		}
		if err == nil {
			if result, ok := real(doc); !ok || result != q.want {
				t.Errorf("%s: OPA says %v", name, result)
			}
		}
		if q.want {
			allowed++
		}
		want := 0
		if q.refused {
			want = 400
		}
		for range 2 { // the second time it may be remembered
			if v := local.Check(t.Context(), r); v.Err != nil || v.Allow != q.want || v.Status != want {
				t.Errorf("%s: the sidecar says %+v", name, v)
			}
		}
		if v := remote.Check(t.Context(), r); v.Err != nil || v.Allow != q.want || q.refused && v.Status != 400 || !q.want && !q.refused && v.Status != 403 {
			t.Errorf("%s: our server says %+v", name, v)
		}
	}
	if allowed < 50 || allowed > len(list)-50 {
		t.Errorf("%d of %d are allowed", allowed, len(list))
	}
}

// The policy sees the same document whether the sidecar decides or a server is
// asked.
func TestSameInput(t *testing.T) {
	const policy = `package envoy.authz
allow := {"allowed": true, "headers": {"x-input": json.marshal(input)}}`
	tokens, _ := newTokens(t)
	remote, local := client(t, ours(t, write(t, map[string]string{"policy.rego": policy}))), sidecar(t, policy, "")
	list := questions()
	for i := range list {
		r := list[i].external(tokens)
		if list[i].refused {
			continue
		}
		near, far := local.Check(t.Context(), r), remote.Check(t.Context(), r)
		if near.Err != nil || far.Err != nil {
			t.Fatal(near.Err, far.Err)
		}
		var a, b any
		if json.Unmarshal([]byte(near.Headers[0].Value), &a) != nil || json.Unmarshal([]byte(far.Headers[0].Value), &b) != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("the sidecar's\n%s\nour server's\n%s", near.Headers[0].Value, far.Headers[0].Value)
		}
	}
}

// A stock client of envoy.service.auth.v3 gets the answers that opa-envoy-plugin
// documents.
func TestStockClient(t *testing.T) {
	addr := ours(t, write(t, map[string]string{"policy.rego": `package envoy.authz
allow := {"allowed": true, "headers": {"x-user": "vera"}, "request_headers_to_remove": ["cookie"], "response_headers_to_add": {"x-r": "1"}, "query_parameters_to_set": {"q": "1"}, "query_parameters_to_remove": ["p"], "dynamic_metadata": {"tier": 2}} if path == ["yes"]
allow := {"allowed": false, "http_status": 401, "body": "who?", "headers": {"www-authenticate": "Bearer"}} if path == ["who"]
allow := false if path == ["no"]
allow := 7 if path == ["seven"]
path := input.parsed_path`}))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(path string) (*auth.CheckResponse, error) {
		return auth.NewAuthorizationClient(conn).Check(context.Background(), &auth.CheckRequest{Attributes: &auth.AttributeContext{
			Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: path, Host: "a", Headers: map[string]string{":path": path}}}}})
	}
	r, err := ask("/yes")
	if err != nil {
		t.Fatal(err)
	}
	ok := r.GetOkResponse()
	header := func(list []*core.HeaderValueOption) string {
		var out []string
		for _, h := range list {
			out = append(out, h.Header.Key+"="+h.Header.Value)
		}
		return strings.Join(out, ",")
	}
	if r.Status.Code != int32(codes.OK) || header(ok.Headers) != "x-user=vera" || header(ok.ResponseHeadersToAdd) != "x-r=1" || !reflect.DeepEqual(ok.HeadersToRemove, []string{"cookie"}) ||
		ok.QueryParametersToSet[0].Key != "q" || !reflect.DeepEqual(ok.QueryParametersToRemove, []string{"p"}) || r.DynamicMetadata.AsMap()["tier"] != 2.0 {
		t.Errorf("/yes: %v", r)
	}
	if r, err = ask("/who"); err != nil || r.Status.Code != int32(codes.PermissionDenied) || r.GetDeniedResponse().Status.Code != 401 || r.GetDeniedResponse().Body != "who?" || header(r.GetDeniedResponse().Headers) != "www-authenticate=Bearer" {
		t.Errorf("/who: %v %v", r, err)
	}
	if r, err = ask("/no"); err != nil || r.Status.Code != int32(codes.PermissionDenied) {
		t.Errorf("/no: %v %v", r, err)
	}
	if r, err = ask("/%zz"); err != nil || r.Status.Code != int32(codes.PermissionDenied) || r.GetDeniedResponse().Status.Code != 400 {
		t.Errorf("/%%zz: %v %v", r, err)
	}
	for _, path := range []string{"/undefined", "/seven"} { // no decision is an error: the proxy's failOpen decides
		if r, err = ask(path); status.Code(err) == codes.OK {
			t.Errorf("%s: %v", path, r)
		}
	}
}

// OPA's own test runner passes ResearchFlow's policy.
func TestPolicyTests(t *testing.T) {
	out, err := exec.Command(server(t), "test", "-v", manifests+"policy.rego", manifests+"policy_test.rego", manifests+"data.json").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: 2") {
		t.Errorf("%v\n%s", err, out)
	}
}
