package meshtest

import (
	"context"
	"net/http"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authorizer is every application's ext_authz v3 service: who sends "x-allow:
// yes" may pass, with x-checked-by added; the rest is refused with 403, or as
// the application behaves ("status 401").
type authorizer struct {
	auth.UnimplementedAuthorizationServer
	app *app
}

// Check implements the service.
func (z *authorizer) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	b := z.app.behave()
	q := r.GetAttributes().GetRequest().GetHttp()
	z.app.note(seen{id: "check " + q.GetHeaders()["x-mesh-request"], proto: "HTTP/2.0", method: q.GetMethod(), path: q.GetPath(), host: q.GetHost(), header: http.Header{}, body: q.GetSize(), at: time.Now()})
	if !b.wait(ctx) {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if b.action != "" { // whatever it is, there is no decision
		return nil, status.Error(codes.Unavailable, "as the script says")
	}
	if q.GetHeaders()["x-allow"] == "yes" {
		return &auth.CheckResponse{Status: &rpc.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers: option("x-checked-by", z.app.name), HeadersToRemove: []string{"x-allow"}, ResponseHeadersToAdd: option("x-checked", "true")}}}, nil
	}
	code := http.StatusForbidden
	if b.status != 0 {
		code = b.status
	}
	return &auth.CheckResponse{Status: &rpc.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(code)}, Body: "refused by " + z.app.name, Headers: option("x-reason", "no x-allow")}}}, nil
}

func option(name, value string) []*core.HeaderValueOption {
	return []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: name, Value: value}}}
}
