package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// shadowPrefix is where Istio's shadow rules leave their verdict for ext_authz.
const shadowPrefix = "istio_ext_authz_"

// extAuthz encodes an authorizer as istiod does. One that decides in the
// sidecar is, to a stock Envoy, the service that the provider names.
func extAuthz(e *ir.ExtAuthz) *extpb.ExtAuthz {
	out := &extpb.ExtAuthz{TransportApiVersion: core.ApiVersion_V3, FailureModeAllow: e.FailOpen, ClearRouteCache: e.ClearRouteCache,
		FilterEnabledMetadata: enabledBy(e, "envoy.filters.http.rbac")}
	if e.StatusOnError != 0 {
		out.StatusOnError = &typepb.HttpStatus{Code: typepb.StatusCode(e.StatusOnError)}
	}
	if e.MaxRequestBytes > 0 {
		out.WithRequestBody = &extpb.BufferSettings{MaxRequestBytes: e.MaxRequestBytes, AllowPartialMessage: e.AllowPartial, PackAsBytes: e.PackAsBytes}
	}
	if e.HTTP == nil {
		out.Services = &extpb.ExtAuthz_GrpcService{GrpcService: grpcService(e)}
		return out
	}
	h := &extpb.HttpService{PathPrefix: e.HTTP.PathPrefix,
		ServerUri: &core.HttpUri{Uri: "http://" + e.Authority, HttpUpstreamType: &core.HttpUri_Cluster{Cluster: e.Cluster}, Timeout: askTimeout(e)}}
	for _, add := range e.HTTP.AddHeaders {
		if h.AuthorizationRequest == nil {
			h.AuthorizationRequest = &extpb.AuthorizationRequest{}
		}
		h.AuthorizationRequest.HeadersToAdd = append(h.AuthorizationRequest.HeadersToAdd, &core.HeaderValue{Key: add.Name, Value: add.Value})
	}
	if len(e.HTTP.UpstreamOnAllow)+len(e.HTTP.DownstreamOnDeny)+len(e.HTTP.DownstreamOnAllow) > 0 {
		h.AuthorizationResponse = &extpb.AuthorizationResponse{AllowedUpstreamHeaders: matchers(e.HTTP.UpstreamOnAllow),
			AllowedClientHeaders: matchers(e.HTTP.DownstreamOnDeny), AllowedClientHeadersOnSuccess: matchers(e.HTTP.DownstreamOnAllow)}
	}
	out.AllowedHeaders = matchers(e.HTTP.RequestHeaders)
	out.Services = &extpb.ExtAuthz_HttpService{HttpService: h}
	return out
}

func matchers(list []ir.Match) *matcher.ListStringMatcher {
	if len(list) == 0 {
		return nil
	}
	out := &matcher.ListStringMatcher{}
	for _, m := range list {
		out.Patterns = append(out.Patterns, stringMatcher(m))
	}
	return out
}

func askTimeout(e *ir.ExtAuthz) *durationpb.Duration {
	if e.Timeout == 0 {
		return duration(ir.Duration(600e9))
	}
	return duration(e.Timeout)
}

func grpcService(e *ir.ExtAuthz) *core.GrpcService {
	return &core.GrpcService{Timeout: askTimeout(e), TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: e.Cluster, Authority: e.Authority}}}
}

func policyPrefix(e *ir.ExtAuthz) string { return "istio-ext-authz-" + e.Provider }

func shadowNames(e *ir.ExtAuthz) []ir.Policy {
	out := make([]ir.Policy, len(e.Policies))
	for i, p := range e.Policies {
		p.Name = policyPrefix(e) + "-" + p.Name
		out[i] = p
	}
	return out
}

// brokenNames are those under which Istio refuses what a provider that cannot
// be used would have been asked about.
func brokenNames(e *ir.ExtAuthz) []ir.Policy {
	out := shadowNames(e)
	for i := range out {
		out[i].Name += "-deny-due-to-bad-CUSTOM-action"
	}
	return out
}

// enabledBy: the shadow rules, which filter wrote, have matched.
func enabledBy(e *ir.ExtAuthz, filter string) *matcher.MetadataMatcher {
	return &matcher.MetadataMatcher{Filter: filter, Path: []*matcher.MetadataMatcher_PathSegment{{Segment: &matcher.MetadataMatcher_PathSegment_Key{Key: shadowPrefix + "shadow_effective_policy_id"}}},
		Value: &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_StringMatch{StringMatch: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: policyPrefix(e)}}}}}
}
