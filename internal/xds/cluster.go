package xds

import (
	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
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
			MaxRequests: u32(c.Breaker.MaxRequests), MaxRetries: u32(c.Breaker.MaxRetries), TrackRemaining: true, RetryBudget: retryBudget(c.RetryBudget)}}},
	}
	switch c.Type {
	case ir.EDS:
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS}
		out.EdsClusterConfig = &clusterpb.Cluster_EdsClusterConfig{EdsConfig: adsSource(), ServiceName: c.Name}
	case ir.OriginalDst:
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_ORIGINAL_DST}
	default:
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: map[ir.ClusterType]clusterpb.Cluster_DiscoveryType{
			ir.StrictDNS: clusterpb.Cluster_STRICT_DNS, ir.LogicalDNS: clusterpb.Cluster_LOGICAL_DNS}[c.Type]} // 0 is STATIC
		if c.Type != ir.Static {
			//lint:ignore SA1019 what istiod sends, and what older Envoys read
			out.RespectDnsTtl, out.DnsRefreshRate, out.DnsLookupFamily = true, duration(c.DNSRefresh), clusterpb.Cluster_V4_PREFERRED
		}
		if c.Endpoints != nil {
			if out.LoadAssignment, err = encodeEndpoints(c.Endpoints); err != nil {
				return nil, err
			}
			if c.Type == ir.Static {
				unweighted(out.LoadAssignment)
			}
		}
	}
	out.LbPolicy = map[ir.LBPolicy]clusterpb.Cluster_LbPolicy{
		ir.RoundRobin: clusterpb.Cluster_ROUND_ROBIN, ir.Random: clusterpb.Cluster_RANDOM, ir.LeastRequest: clusterpb.Cluster_LEAST_REQUEST,
		ir.RingHash: clusterpb.Cluster_RING_HASH, ir.Maglev: clusterpb.Cluster_MAGLEV, ir.ClusterProvided: clusterpb.Cluster_CLUSTER_PROVIDED,
	}[c.LB]
	encodeBalancer(out, c)
	out.OutlierDetection = encodeOutlier(c.Outlier)
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
	if c.ProxyProtocol != "" && c.AutoTLS == nil {
		out.TransportSocket = announcing(c.ProxyProtocol, out.TransportSocket)
	}
	if c.AutoTLS != nil {
		out.TransportSocketMatches = []*clusterpb.Cluster_TransportSocketMatch{
			{Name: "tlsMode-istio", Match: tlsMode(), TransportSocket: announcing(c.ProxyProtocol, upstreamTLS(c.AutoTLS))},
			{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: announcing(c.ProxyProtocol, rawBuffer())},
		}
	}
	out.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(httpOptions(c))}
	return out, nil
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
