package extauthz

import (
	"context"
	"net"
	"reflect"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// server answers with what the test says.
type server struct {
	auth.UnimplementedAuthorizationServer
	answer *auth.CheckResponse
	asked  *auth.CheckRequest
}

func (s *server) Check(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	s.asked = r
	return s.answer, nil
}

func start(t *testing.T, o Options) (*server, *Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{}
	gs := grpc.NewServer()
	auth.RegisterAuthorizationServer(gs, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = gs.Serve(l) }()
	o.Name, o.Dial = "judge", func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); gs.Stop(); <-done })
	return s, c
}

func opt(name, value string, action core.HeaderValueOption_HeaderAppendAction, appends *wrapperspb.BoolValue) *core.HeaderValueOption {
	//lint:ignore SA1019 deprecated, and what authorizers still send
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}, AppendAction: action, Append: appends}
}

// Every part of a CheckResponse means what Envoy takes it for.
func TestVerdict(t *testing.T) {
	s, c := start(t, Options{})
	ok := func(r *auth.OkHttpResponse) *auth.CheckResponse {
		return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: r}}
	}
	meta, _ := structpb.NewStruct(map[string]any{"decision_id": "7", "tier": "gold"})
	h := func(name, value string) []ir.Header { return []ir.Header{{Name: name, Value: value}} }
	for _, tc := range []struct {
		name   string
		answer *auth.CheckResponse
		want   authz.Verdict
		fails  bool
	}{
		{"ok", &auth.CheckResponse{Status: &status.Status{}}, authz.Verdict{Allow: true}, false},
		{"no status is ok, as in Envoy", &auth.CheckResponse{}, authz.Verdict{Allow: true}, false},
		{"set", ok(&auth.OkHttpResponse{Headers: []*core.HeaderValueOption{opt("X-User", "v", core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD, nil)}}), authz.Verdict{Allow: true, Headers: h("x-user", "v")}, false},
		{"append", ok(&auth.OkHttpResponse{Headers: []*core.HeaderValueOption{opt("x-user", "v", 0, wrapperspb.Bool(true))}}), authz.Verdict{Allow: true, AppendHeaders: h("x-user", "v")}, false},
		{"remove", ok(&auth.OkHttpResponse{HeadersToRemove: []string{"X-A"}}), authz.Verdict{Allow: true, RemoveHeaders: []string{"x-a"}}, false},
		{"response", ok(&auth.OkHttpResponse{ResponseHeadersToAdd: []*core.HeaderValueOption{opt("a", "1", 0, nil), opt("b", "2", core.HeaderValueOption_ADD_IF_ABSENT, nil), opt("c", "3", core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, nil),
			opt("d", "4", core.HeaderValueOption_OVERWRITE_IF_EXISTS, nil), opt("e", "5", 0, wrapperspb.Bool(false))}}),
			authz.Verdict{Allow: true, ResponseHeaders: []authz.ResponseHeader{{Header: h("a", "1")[0]}, {Header: h("b", "2")[0], Append: authz.AddIfAbsent}, {Header: h("c", "3")[0], Append: authz.Set},
				{Header: h("d", "4")[0], Append: authz.SetIfPresent}, {Header: h("e", "5")[0], Append: authz.Set}}}, false},
		{"query", ok(&auth.OkHttpResponse{QueryParametersToSet: []*core.QueryParameter{{Key: "a", Value: "1%20"}}, QueryParametersToRemove: []string{"b"}}), authz.Verdict{Allow: true, SetQuery: h("a", "1%20"), RemoveQuery: []string{"b"}}, false},
		{"metadata", &auth.CheckResponse{Status: &status.Status{}, DynamicMetadata: meta}, authz.Verdict{Allow: true, Metadata: meta.AsMap(), Detail: "7"}, false},
		{"denied", &auth.CheckResponse{Status: &status.Status{Code: 7}}, authz.Verdict{}, false},
		{"denied in words", &auth.CheckResponse{Status: &status.Status{Code: 16}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{Status: &typepb.HttpStatus{Code: 401}, Body: "who?",
			Headers: []*core.HeaderValueOption{opt("www-authenticate", "Bearer", 0, nil)}}}}, authz.Verdict{Status: 401, Body: "who?", Headers: h("www-authenticate", "Bearer")}, false},
		{"error", &auth.CheckResponse{Status: &status.Status{Code: 13}, HttpResponse: &auth.CheckResponse_ErrorResponse{ErrorResponse: &auth.DeniedHttpResponse{Status: &typepb.HttpStatus{Code: 503}, Body: "later"}}}, authz.Verdict{Status: 503, Body: "later"}, true},
		{"line break", ok(&auth.OkHttpResponse{Headers: []*core.HeaderValueOption{opt("a", "1\r\nb: 2", 0, nil)}}), authz.Verdict{Status: 500}, true},
		{"bad name", ok(&auth.OkHttpResponse{Headers: []*core.HeaderValueOption{opt("a b", "1", 0, nil)}}), authz.Verdict{Status: 500}, true},
		{"pseudo header", ok(&auth.OkHttpResponse{Headers: []*core.HeaderValueOption{opt(":path", "/admin", 0, nil)}}), authz.Verdict{Status: 500}, true},
		{"length", ok(&auth.OkHttpResponse{Headers: []*core.HeaderValueOption{opt("content-length", "0", 0, nil)}}), authz.Verdict{Status: 500}, true},
		{"bad query", ok(&auth.OkHttpResponse{QueryParametersToSet: []*core.QueryParameter{{Key: "a", Value: "1&admin=1"}}}), authz.Verdict{Status: 500}, true},
		{"status that is none", &auth.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{Status: &typepb.HttpStatus{Code: 100}}}}, authz.Verdict{Status: 500}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.answer = tc.answer
			got := c.Check(t.Context(), &authz.External{HTTP: true, Method: "GET", Path: "/", Host: "a"})
			if (got.Err != nil) != tc.fails {
				t.Fatal(got.Err)
			}
			got.Err = nil
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("verdict %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// A request's body goes as text or as bytes, with a word on whether it is whole.
func TestBody(t *testing.T) {
	for _, packed := range []bool{false, true} {
		s, c := start(t, Options{PackAsBytes: packed})
		s.answer = &auth.CheckResponse{}
		c.Check(t.Context(), &authz.External{HTTP: true, Method: "POST", Path: "/a?b", Host: "h", Body: []byte("job"), BodyTruncated: true})
		h := s.asked.GetAttributes().GetRequest().GetHttp()
		if string(h.RawBody)+h.Body != "job" || (len(h.RawBody) > 0) != packed || h.Size != 3 || h.Headers["x-envoy-auth-partial-body"] != "true" || h.Headers[":path"] != "/a?b" || h.Path != "/a?b" {
			t.Errorf("packed %v: %v", packed, h)
		}
	}
}
