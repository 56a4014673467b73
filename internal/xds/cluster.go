package xds

import (
	"net"
	"strconv"
	"strings"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	raw "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httppb "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func encodeCluster(c *ir.Cluster) (*clusterpb.Cluster, error) {
	meta, err := carry(c, c.PolicyFrom)
	if err != nil {
		return nil, err
	}
	out := &clusterpb.Cluster{
		Name: c.Name, ConnectTimeout: duration(c.ConnectTimeout), Metadata: meta,
		CircuitBreakers: &clusterpb.CircuitBreakers{Thresholds: []*clusterpb.CircuitBreakers_Thresholds{{
			MaxConnections: u32(c.Breaker.MaxConnections), MaxPendingRequests: u32(c.Breaker.MaxPendingRequests),
			MaxRequests: u32(c.Breaker.MaxRequests), MaxRetries: u32(c.Breaker.MaxRetries), TrackRemaining: true}}},
	}
	switch c.Type {
	case ir.EDS:
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS}
		out.EdsClusterConfig = &clusterpb.Cluster_EdsClusterConfig{EdsConfig: adsSource(), ServiceName: c.Name}
	case ir.OriginalDst:
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_ORIGINAL_DST}
	default:
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STATIC}
		if c.Endpoints != nil {
			if out.LoadAssignment, err = encodeEndpoints(c.Endpoints); err != nil {
				return nil, err
			}
		}
	}
	out.LbPolicy = map[ir.LBPolicy]clusterpb.Cluster_LbPolicy{
		ir.RoundRobin: clusterpb.Cluster_ROUND_ROBIN, ir.Random: clusterpb.Cluster_RANDOM, ir.LeastRequest: clusterpb.Cluster_LEAST_REQUEST,
		ir.RingHash: clusterpb.Cluster_RING_HASH, ir.Maglev: clusterpb.Cluster_MAGLEV, ir.ClusterProvided: clusterpb.Cluster_CLUSTER_PROVIDED,
	}[c.LB]
	out.OutlierDetection = encodeOutlier(c.Outlier)
	if c.Type != ir.OriginalDst {
		// 0 is written too: Envoy's default would send to unhealthy hosts when fewer than half are healthy.
		out.CommonLbConfig = &clusterpb.Cluster_CommonLbConfig{HealthyPanicThreshold: &typepb.Percent{}}
		if c.Outlier != nil {
			out.CommonLbConfig.HealthyPanicThreshold.Value = float64(c.Outlier.MinHealthPercent)
		}
	}
	if c.BindSource.IsValid() {
		out.UpstreamBindConfig = &core.BindConfig{SourceAddress: address(c.BindSource.String(), 0).GetSocketAddress()}
	}
	if k := c.TCPKeepalive; k != nil {
		out.UpstreamConnectionOptions = &clusterpb.UpstreamConnectionOptions{TcpKeepalive: &core.TcpKeepalive{
			KeepaliveProbes: optional(k.Probes), KeepaliveTime: optional(uint32(k.Time.D().Seconds())), KeepaliveInterval: optional(uint32(k.Interval.D().Seconds()))}}
	}
	if c.TLS != nil {
		out.TransportSocket = upstreamTLS(c.TLS)
	}
	if c.AutoTLS != nil {
		out.TransportSocketMatches = []*clusterpb.Cluster_TransportSocketMatch{
			{Name: "tlsMode-istio", Match: tlsMode(), TransportSocket: upstreamTLS(c.AutoTLS)},
			{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: &core.TransportSocket{Name: "envoy.transport_sockets.raw_buffer",
				ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: pack(&raw.RawBuffer{})}}},
		}
	}
	out.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(httpOptions(c))}
	return out, nil
}

func httpOptions(c *ir.Cluster) *httppb.HttpProtocolOptions {
	out := &httppb.HttpProtocolOptions{
		CommonHttpProtocolOptions: &core.HttpProtocolOptions{
			IdleTimeout: duration(c.HTTP.IdleTimeout), MaxConnectionDuration: duration(c.HTTP.MaxConnectionDuration), MaxRequestsPerConnection: optional(c.HTTP.MaxRequestsPerConn)},
	}
	h1 := &core.Http1ProtocolOptions{}
	h2 := &core.Http2ProtocolOptions{MaxConcurrentStreams: optional(c.HTTP.MaxConcurrentStreams)}
	switch c.HTTP.Protocol {
	case ir.HTTP2:
		out.UpstreamProtocolOptions = &httppb.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2}}}
	case ir.DownstreamProtocol:
		out.UpstreamProtocolOptions = &httppb.HttpProtocolOptions_UseDownstreamProtocolConfig{UseDownstreamProtocolConfig: &httppb.HttpProtocolOptions_UseDownstreamHttpConfig{
			HttpProtocolOptions: h1, Http2ProtocolOptions: h2}}
	default:
		out.UpstreamProtocolOptions = &httppb.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: h1}}}
	}
	return out
}

func encodeOutlier(o *ir.Outlier) *clusterpb.OutlierDetection {
	if o == nil {
		return nil
	}
	out := &clusterpb.OutlierDetection{
		Consecutive_5Xx: u32(o.Consecutive5xx), EnforcingConsecutive_5Xx: enforcing(o.Consecutive5xx), EnforcingSuccessRate: u32(0),
		ConsecutiveGatewayFailure: optional(o.ConsecutiveGateway), EnforcingConsecutiveGatewayFailure: enforcing(o.ConsecutiveGateway),
		SplitExternalLocalOriginErrors: o.SplitLocal, ConsecutiveLocalOriginFailure: optional(o.ConsecutiveLocal),
		Interval: duration(o.Interval), BaseEjectionTime: duration(o.BaseEjection), MaxEjectionTime: duration(o.MaxEjection), MaxEjectionPercent: u32(o.MaxEjectionPercent),
	}
	return out
}

func enforcing(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return u32(0)
	}
	return u32(100)
}

func tlsMode() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue("istio")}}
}

func upstreamTLS(t *ir.UpstreamTLS) *core.TransportSocket {
	common := &tlspb.CommonTlsContext{AlpnProtocols: t.ALPN}
	if t.Secret != "" {
		common.TlsCertificateSdsSecretConfigs = []*tlspb.SdsSecretConfig{{Name: t.Secret, SdsConfig: adsSource()}}
	}
	if t.ValidationSecret != "" {
		common.ValidationContextType = combined(t.ValidationSecret, t.SANs)
	}
	return &core.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &core.TransportSocket_TypedConfig{
		TypedConfig: pack(&tlspb.UpstreamTlsContext{CommonTlsContext: common, Sni: t.SNI})}}
}

func combined(secret string, sans []ir.Match) *tlspb.CommonTlsContext_CombinedValidationContext {
	v := &tlspb.CertificateValidationContext{}
	for _, s := range sans {
		v.MatchTypedSubjectAltNames = append(v.MatchTypedSubjectAltNames, &tlspb.SubjectAltNameMatcher{SanType: tlspb.SubjectAltNameMatcher_URI, Matcher: stringMatcher(s)})
	}
	return &tlspb.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlspb.CommonTlsContext_CombinedCertificateValidationContext{
		DefaultValidationContext: v, ValidationContextSdsSecretConfig: &tlspb.SdsSecretConfig{Name: secret, SdsConfig: adsSource()}}}
}

func decodeCluster(body *anypb.Any) (*ir.Cluster, error) {
	m := &clusterpb.Cluster{}
	if err := body.UnmarshalTo(m); err != nil {
		return nil, err
	}
	c := &ir.Cluster{}
	return c, carried(m.Metadata, c)
}

func encodeEndpoints(e *ir.EndpointSet) (*endpointpb.ClusterLoadAssignment, error) {
	out := &endpointpb.ClusterLoadAssignment{ClusterName: e.Cluster}
	group := &endpointpb.LocalityLbEndpoints{}
	for i := range e.Endpoints {
		ep := &e.Endpoints[i]
		at, err := endpointAddress(ep.Address)
		if err != nil {
			return nil, err
		}
		meta, err := carry(ep, ir.Origin{})
		if err != nil {
			return nil, err
		}
		if ep.TLS {
			meta.FilterMetadata["envoy.transport_socket_match"] = tlsMode()
		}
		group.LbEndpoints = append(group.LbEndpoints, &endpointpb.LbEndpoint{
			HostIdentifier:      &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: at}},
			HealthStatus:        map[ir.Health]core.HealthStatus{ir.Unhealthy: core.HealthStatus_UNHEALTHY, ir.Draining: core.HealthStatus_DRAINING}[ep.Health],
			LoadBalancingWeight: u32(max(ep.Weight, 1)), Metadata: meta,
		})
	}
	if len(group.LbEndpoints) > 0 {
		group.LoadBalancingWeight = u32(uint32(len(group.LbEndpoints)))
		out.Endpoints = append(out.Endpoints, group)
	}
	return out, nil
}

// endpointAddress is "host:port" or "unix:/path".
func endpointAddress(text string) (*core.Address, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: path}}}, nil
	}
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	return address(host, uint16(port)), nil
}

func decodeEndpoints(body *anypb.Any) (*ir.EndpointSet, error) {
	m := &endpointpb.ClusterLoadAssignment{}
	if err := body.UnmarshalTo(m); err != nil {
		return nil, err
	}
	out := &ir.EndpointSet{Cluster: m.ClusterName}
	for _, g := range m.Endpoints {
		for _, e := range g.LbEndpoints {
			var ep ir.Endpoint
			if err := carried(e.Metadata, &ep); err != nil {
				return nil, err
			}
			out.Endpoints = append(out.Endpoints, ep)
		}
	}
	return out, nil
}
