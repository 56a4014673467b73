package xds

import (
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netext "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// A stock Envoy is told what istiod would tell it about an HTTP authorizer.
func TestHTTPAuthorizerAsEnvoyHasIt(t *testing.T) {
	e := &ir.ExtAuthz{Provider: "gate", Cluster: "outbound|80||gate.shop", Authority: "gate.shop", Timeout: ir.Duration(time.Second), FailOpen: true, StatusOnError: 503, ClearRouteCache: true, MaxRequestBytes: 9, AllowPartial: true,
		Policies: []ir.Policy{{Name: "ns[shop]-policy[p]-rule[0]"}},
		HTTP: &ir.ExtAuthzHTTP{PathPrefix: "/check", RequestHeaders: []ir.Match{{Kind: ir.Prefix, Value: "x-", IgnoreCase: true}}, AddHeaders: []ir.Header{{Name: "a", Value: "b"}},
			UpstreamOnAllow: []ir.Match{{Kind: ir.Exact, Value: "x-user", IgnoreCase: true}}}}
	filters := httpFilters([]ir.Filter{{ExtAuthz: e}})
	if len(filters) != 2 || filters[1].name != "envoy.filters.http.ext_authz" {
		t.Fatalf("%v", filters)
	}
	want := &extpb.ExtAuthz{}
	if err := protojson.Unmarshal([]byte(`{"transportApiVersion": "V3", "failureModeAllow": true, "clearRouteCache": true, "statusOnError": {"code": "ServiceUnavailable"},
		"withRequestBody": {"maxRequestBytes": 9, "allowPartialMessage": true}, "allowedHeaders": {"patterns": [{"prefix": "x-", "ignoreCase": true}]},
		"httpService": {"pathPrefix": "/check", "serverUri": {"uri": "http://gate.shop", "cluster": "outbound|80||gate.shop", "timeout": "1s"},
			"authorizationRequest": {"headersToAdd": [{"key": "a", "value": "b"}]}, "authorizationResponse": {"allowedUpstreamHeaders": {"patterns": [{"exact": "x-user", "ignoreCase": true}]}}},
		"filterEnabledMetadata": {"filter": "envoy.filters.http.rbac", "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}], "value": {"stringMatch": {"prefix": "istio-ext-authz-gate"}}}}`), want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(filters[1].config, want) {
		t.Errorf("%s\nwant %s", protojson.Format(filters[1].config), protojson.Format(want))
	}
}

// On a port of TCP the authorizer is switched on by the rules of that chain's
// own filter, and what is broken or only ours refuses in a stock Envoy.
func TestAuthorizerOnTCP(t *testing.T) {
	e := &ir.ExtAuthz{Provider: "gate", Cluster: "c", Authority: "gate.shop", Policies: []ir.Policy{{Name: "p"}}}
	filters := networkFilters([]ir.Filter{{ExtAuthz: e}})
	if len(filters) != 2 {
		t.Fatalf("%v", filters)
	}
	ext := filters[1].config.(*netext.ExtAuthz)
	if ext.FilterEnabledMetadata.Filter != "envoy.filters.network.rbac" || ext.GrpcService.GetEnvoyGrpc().Authority != "gate.shop" || ext.TransportApiVersion != core.ApiVersion_V3 {
		t.Errorf("%v", ext)
	}
	for _, refused := range []*ir.ExtAuthz{{Provider: "gate", Broken: "x", Policies: e.Policies}, {Provider: "gate", Rego: &ir.Rego{}, Policies: e.Policies}} {
		for _, list := range [][]named{networkFilters([]ir.Filter{{ExtAuthz: refused}}), httpFilters([]ir.Filter{{ExtAuthz: refused}})} {
			if len(list) != 1 {
				t.Errorf("%+v becomes %v", refused, list)
			}
		}
	}
}
