package xds

import (
	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyproto "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	raw "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httppb "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// httpOptions says which HTTP a cluster speaks and how long its connections live.
func httpOptions(c *ir.Cluster) *httppb.HttpProtocolOptions {
	out := &httppb.HttpProtocolOptions{CommonHttpProtocolOptions: &core.HttpProtocolOptions{
		MaxConnectionDuration: duration(c.HTTP.MaxConnectionDuration), MaxRequestsPerConnection: optional(c.HTTP.MaxRequestsPerConn)}}
	if d := c.HTTP.IdleTimeout; d != nil {
		out.CommonHttpProtocolOptions.IdleTimeout = durationpb.New(d.D()) // 0 is off, not the default
	}
	h2 := &core.Http2ProtocolOptions{MaxConcurrentStreams: optional(c.HTTP.MaxConcurrentStreams)}
	if k := c.HTTP.HTTP2KeepAlive; k != nil {
		h2.ConnectionKeepalive = &core.KeepaliveSettings{Interval: duration(k.Interval), Timeout: duration(k.Timeout)}
	}
	switch c.HTTP.Protocol {
	case "downstream":
		out.UpstreamProtocolOptions = &httppb.HttpProtocolOptions_UseDownstreamProtocolConfig{UseDownstreamProtocolConfig: &httppb.HttpProtocolOptions_UseDownstreamHttpConfig{
			HttpProtocolOptions: &core.Http1ProtocolOptions{}, Http2ProtocolOptions: h2}}
	case "http2":
		out.UpstreamProtocolOptions = &httppb.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2}}}
	default:
		out.UpstreamProtocolOptions = &httppb.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &core.Http1ProtocolOptions{}}}}
	}
	return out
}

// encodeBalancer says how hosts are chosen. The panic threshold is written
// wherever a host can be unhealthy: Envoy's default of 50 % would send requests
// to endpoints that are not ready.
func encodeBalancer(out *clusterpb.Cluster, c *ir.Cluster) {
	if c.Type == ir.OriginalDst || c.Type == ir.Static {
		return
	}
	common := &clusterpb.Cluster_CommonLbConfig{HealthyPanicThreshold: &typepb.Percent{}}
	if c.Outlier != nil {
		common.HealthyPanicThreshold.Value = float64(c.Outlier.MinHealthPercent)
	}
	switch {
	case c.ZoneAware != nil:
		common.LocalityConfigSpecifier = &clusterpb.Cluster_CommonLbConfig_ZoneAwareLbConfig_{ZoneAwareLbConfig: &clusterpb.Cluster_CommonLbConfig_ZoneAwareLbConfig{
			MinClusterSize: wrapperspb.UInt64(c.ZoneAware.MinClusterSize)}}
	case c.LocalityWeighted:
		common.LocalityConfigSpecifier = &clusterpb.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{LocalityWeightedLbConfig: &clusterpb.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
	}
	out.CommonLbConfig = common
	switch {
	case c.LB == ir.RingHash:
		ring := &clusterpb.Cluster_RingHashLbConfig{MinimumRingSize: wrapperspb.UInt64(ir.DefaultRingSize)}
		if c.Hash != nil && c.Hash.MinRingSize > 0 {
			ring.MinimumRingSize.Value = min(c.Hash.MinRingSize, ir.MaxRingSize)
		}
		out.LbConfig = &clusterpb.Cluster_RingHashLbConfig_{RingHashLbConfig: ring}
	case c.LB == ir.Maglev && c.Hash != nil:
		out.LbConfig = &clusterpb.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterpb.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(c.Hash.TableSize)}}
	case c.LB == ir.RoundRobin && c.Warmup != nil:
		out.LbConfig = &clusterpb.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterpb.Cluster_RoundRobinLbConfig{SlowStartConfig: slowStart(c.Warmup)}}
	case c.Warmup != nil:
		out.LbConfig = &clusterpb.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterpb.Cluster_LeastRequestLbConfig{SlowStartConfig: slowStart(c.Warmup)}}
	}
}

func slowStart(w *ir.Warmup) *clusterpb.Cluster_SlowStartConfig {
	return &clusterpb.Cluster_SlowStartConfig{SlowStartWindow: duration(w.Duration), MinWeightPercent: &typepb.Percent{Value: w.MinPercent},
		Aggression: &core.RuntimeDouble{DefaultValue: w.Aggression, RuntimeKey: "aggression"}}
}

func retryBudget(b *ir.RetryBudget) *clusterpb.CircuitBreakers_Thresholds_RetryBudget {
	if b == nil {
		return nil
	}
	return &clusterpb.CircuitBreakers_Thresholds_RetryBudget{BudgetPercent: &typepb.Percent{Value: b.Percent}, MinRetryConcurrency: u32(b.MinConcurrency)}
}

func rawBuffer() *core.TransportSocket {
	return &core.TransportSocket{Name: "envoy.transport_sockets.raw_buffer", ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: pack(&raw.RawBuffer{})}}
}

// announcing wraps a transport socket into one that sends the PROXY protocol
// first; "" leaves it as it is.
func announcing(version string, inner *core.TransportSocket) *core.TransportSocket {
	if version == "" {
		return inner
	}
	if inner == nil {
		inner = rawBuffer()
	}
	v := core.ProxyProtocolConfig_V1
	if version == "V2" {
		v = core.ProxyProtocolConfig_V2
	}
	return &core.TransportSocket{Name: "envoy.transport_sockets.upstream_proxy_protocol", ConfigType: &core.TransportSocket_TypedConfig{
		TypedConfig: pack(&proxyproto.ProxyProtocolUpstreamTransport{Config: &core.ProxyProtocolConfig{Version: v}, TransportSocket: inner})}}
}

// upstreamTLS names secrets by SDS; files are named as files.
func upstreamTLS(t *ir.UpstreamTLS) *core.TransportSocket {
	common := &tlspb.CommonTlsContext{AlpnProtocols: t.ALPN}
	if t.Secret != "" && (t.Mode != "SIMPLE") {
		common.TlsCertificateSdsSecretConfigs = []*tlspb.SdsSecretConfig{{Name: t.Secret, SdsConfig: adsSource()}}
	}
	if t.CertFile != "" {
		common.TlsCertificates = []*tlspb.TlsCertificate{{CertificateChain: inFile(t.CertFile), PrivateKey: inFile(t.KeyFile)}}
	}
	switch {
	case t.ValidationSecret != "":
		common.ValidationContextType = combined(t.ValidationSecret, t.SANs)
	case t.SkipVerify:
		common.ValidationContextType = &tlspb.CommonTlsContext_ValidationContext{ValidationContext: &tlspb.CertificateValidationContext{}}
	case t.Secret != "":
		context := combined(t.Secret+caSuffix, nil)
		context.CombinedValidationContext.DefaultValidationContext.MatchTypedSubjectAltNames = expectedNames(t)
		common.ValidationContextType = context
	default:
		v := &tlspb.CertificateValidationContext{MatchTypedSubjectAltNames: expectedNames(t)}
		if t.CAFile == "system" {
			v.SystemRootCerts = &tlspb.CertificateValidationContext_SystemRootCerts{}
		} else {
			v.TrustedCa = inFile(t.CAFile)
		}
		if t.CRLFile != "" {
			v.Crl = inFile(t.CRLFile)
		}
		common.ValidationContextType = &tlspb.CommonTlsContext_ValidationContext{ValidationContext: v}
	}
	if t.MinVersion != "" || len(t.CipherSuites)+len(t.Curves) > 0 {
		common.TlsParams = &tlspb.TlsParameters{TlsMinimumProtocolVersion: tlsVersion(t.MinVersion), CipherSuites: t.CipherSuites, EcdhCurves: t.Curves}
	}
	return &core.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &core.TransportSocket_TypedConfig{
		TypedConfig: pack(&tlspb.UpstreamTlsContext{CommonTlsContext: common, Sni: t.SNI})}}
}

// expectedNames are the names that a server outside the mesh must have one of:
// without subjectAltNames the one it is asked for.
func expectedNames(t *ir.UpstreamTLS) []*tlspb.SubjectAltNameMatcher {
	names := t.SANs
	if len(names) == 0 && t.SNI != "" {
		names = []ir.Match{{Kind: ir.Exact, Value: t.SNI}}
	}
	var out []*tlspb.SubjectAltNameMatcher
	for _, s := range names {
		out = append(out, ofAnyKind(s)...)
	}
	return out
}

// ofAnyKind matches a name that may be a DNS name, a URI, a mail address or an
// IP address.
func ofAnyKind(s ir.Match) []*tlspb.SubjectAltNameMatcher {
	var out []*tlspb.SubjectAltNameMatcher
	for _, kind := range []tlspb.SubjectAltNameMatcher_SanType{tlspb.SubjectAltNameMatcher_DNS, tlspb.SubjectAltNameMatcher_URI,
		tlspb.SubjectAltNameMatcher_EMAIL, tlspb.SubjectAltNameMatcher_IP_ADDRESS} {
		out = append(out, &tlspb.SubjectAltNameMatcher{SanType: kind, Matcher: stringMatcher(s)})
	}
	return out
}

func inFile(path string) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_Filename{Filename: path}}
}
