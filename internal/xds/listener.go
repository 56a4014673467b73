package xds

import (
	accesspb "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filepb "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspect "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	origdst "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspect "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcppb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func encodeListener(l *ir.Listener) (*listenerpb.Listener, error) {
	meta, err := carry(l, l.Origin)
	if err != nil {
		return nil, err
	}
	out := &listenerpb.Listener{Name: l.Name, Address: address(l.Address.Addr().String(), l.Address.Port()), Metadata: meta,
		TrafficDirection:       map[ir.Direction]core.TrafficDirection{ir.Inbound: core.TrafficDirection_INBOUND, ir.Outbound: core.TrafficDirection_OUTBOUND}[l.Direction],
		ListenerFiltersTimeout: duration(l.InspectTimeout), ContinueOnListenerFiltersTimeout: l.ContinueOnInspectTimeout}
	if l.DNS != nil {
		encodeDNS(out, l)
		return out, nil
	}
	if !l.Bind {
		out.BindToPort = wrapperspb.Bool(false)
	}
	filter := func(name string, m proto.Message) {
		out.ListenerFilters = append(out.ListenerFilters, &listenerpb.ListenerFilter{Name: name, ConfigType: &listenerpb.ListenerFilter_TypedConfig{TypedConfig: pack(m)}})
	}
	if l.UseOriginalDst {
		filter("envoy.filters.listener.original_dst", &origdst.OriginalDst{})
		out.UseOriginalDst = wrapperspb.Bool(true)
	}
	if l.InspectTLS {
		filter("envoy.filters.listener.tls_inspector", &tlsinspect.TlsInspector{})
	}
	if l.InspectHTTP {
		filter("envoy.filters.listener.http_inspector", &httpinspect.HttpInspector{})
	}
	for _, c := range l.Chains {
		out.FilterChains = append(out.FilterChains, encodeChain(c))
	}
	if l.Default != nil {
		out.DefaultFilterChain = encodeChain(l.Default)
	}
	return out, nil
}

func decodeListener(body *anypb.Any) (*ir.Listener, error) {
	m := &listenerpb.Listener{}
	if err := body.UnmarshalTo(m); err != nil {
		return nil, err
	}
	l := &ir.Listener{}
	return l, carried(m.Metadata, l)
}

func encodeChain(c *ir.FilterChain) *listenerpb.FilterChain {
	out := &listenerpb.FilterChain{Name: c.Name}
	m := &listenerpb.FilterChainMatch{ServerNames: c.Match.ServerNames, TransportProtocol: c.Match.Transport, ApplicationProtocols: c.Match.ALPN}
	if c.Match.Port != 0 {
		m.DestinationPort = u32(uint32(c.Match.Port))
	}
	for _, p := range c.Match.Prefixes {
		m.PrefixRanges = append(m.PrefixRanges, &core.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: u32(uint32(p.Bits()))})
	}
	if !proto.Equal(m, &listenerpb.FilterChainMatch{}) {
		out.FilterChainMatch = m
	}
	if c.TLS != nil {
		out.TransportSocket = downstreamTLS(c.TLS)
	}
	network := func(name string, msg proto.Message) {
		out.Filters = append(out.Filters, &listenerpb.Filter{Name: name, ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: pack(msg)}})
	}
	if c.HTTP != nil {
		network("envoy.filters.network.http_connection_manager", encodeHTTP(c))
		return out
	}
	for _, f := range networkFilters(c.Filters) {
		network(f.name, f.config)
	}
	network("envoy.filters.network.tcp_proxy", encodeTCP(c.TCP))
	return out
}

func encodeHTTP(c *ir.FilterChain) *hcm.HttpConnectionManager {
	h := c.HTTP
	out := &hcm.HttpConnectionManager{
		StatPrefix: orDefault(h.StatPrefix, h.RouteTable), AccessLog: encodeAccessLog(h.AccessLog), UseRemoteAddress: wrapperspb.Bool(h.UseRemoteAddress), XffNumTrustedHops: uint32(h.TrustedHops),
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: adsSource(), RouteConfigName: h.RouteTable}},
		NormalizePath:  wrapperspb.Bool(h.PathNormalization != "NONE"), MergeSlashes: h.PathNormalization == "MERGE_SLASHES" || h.PathNormalization == "DECODE_AND_MERGE_SLASHES",
		ServerName:        h.ServerName,
		StreamIdleTimeout: durationpb.New(0), // Envoy's default would end quiet streams after 5 minutes
		ForwardClientCertDetails: map[string]hcm.HttpConnectionManager_ForwardClientCertDetails{
			"forwardOnly": hcm.HttpConnectionManager_FORWARD_ONLY, "alwaysForwardOnly": hcm.HttpConnectionManager_ALWAYS_FORWARD_ONLY,
			"sanitizeSet": hcm.HttpConnectionManager_SANITIZE_SET, "appendForward": hcm.HttpConnectionManager_APPEND_FORWARD}[h.ForwardClientCert],
		SetCurrentClientCertDetails: &hcm.HttpConnectionManager_SetCurrentClientCertDetails{Subject: wrapperspb.Bool(true), Dns: true, Uri: true, Cert: h.WholeClientCert},
	}
	if h.ServerName == "" {
		out.ServerHeaderTransformation = hcm.HttpConnectionManager_PASS_THROUGH
	}
	if h.IdleTimeout > 0 {
		out.CommonHttpProtocolOptions = &core.HttpProtocolOptions{IdleTimeout: duration(h.IdleTimeout)}
	}
	for _, u := range h.Upgrades {
		out.UpgradeConfigs = append(out.UpgradeConfigs, &hcm.HttpConnectionManager_UpgradeConfig{UpgradeType: u})
	}
	for _, f := range append(httpFilters(c.Filters), routeFilters()...) {
		out.HttpFilters = append(out.HttpFilters, &hcm.HttpFilter{Name: f.name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(f.config)}})
	}
	out.HttpFilters = append(out.HttpFilters, &hcm.HttpFilter{Name: "envoy.filters.http.router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(&routerpb.Router{})}})
	return out
}

func orDefault(v, fallback string) string {
	if v == "" {
		return fallback
	}
	return v
}

func encodeTCP(t *ir.TCPProxy) *tcppb.TcpProxy {
	out := &tcppb.TcpProxy{StatPrefix: orDefault(t.StatPrefix, "tcp"), AccessLog: encodeAccessLog(t.AccessLog), IdleTimeout: duration(t.IdleTimeout), MaxDownstreamConnectionDuration: duration(t.MaxDuration)}
	if t.IdleTimeout < 0 {
		out.IdleTimeout = durationpb.New(0) // off
	}
	if t.HashSourceIP {
		out.HashPolicy = []*typepb.HashPolicy{{PolicySpecifier: &typepb.HashPolicy_SourceIp_{SourceIp: &typepb.HashPolicy_SourceIp{}}}}
	}
	if t.Tunnel != nil {
		out.TunnelingConfig = &tcppb.TcpProxy_TunnelingConfig{Hostname: t.Tunnel.Target}
	}
	if len(t.Clusters) == 1 {
		out.ClusterSpecifier = &tcppb.TcpProxy_Cluster{Cluster: t.Clusters[0].Name}
		return out
	}
	w := &tcppb.TcpProxy_WeightedCluster{}
	for _, c := range t.Clusters {
		w.Clusters = append(w.Clusters, &tcppb.TcpProxy_WeightedCluster_ClusterWeight{Name: c.Name, Weight: max(c.Weight, 1)})
	}
	out.ClusterSpecifier = &tcppb.TcpProxy_WeightedClusters{WeightedClusters: w}
	return out
}

func encodeAccessLog(a *ir.AccessLog) []*accesspb.AccessLog {
	if a == nil {
		return nil
	}
	f := &filepb.FileAccessLog{Path: a.Path}
	if a.Format != "" && !a.JSON {
		f.AccessLogFormat = &filepb.FileAccessLog_LogFormat{LogFormat: &core.SubstitutionFormatString{Format: &core.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: a.Format}}}}}
	}
	return []*accesspb.AccessLog{{Name: "envoy.access_loggers.file", ConfigType: &accesspb.AccessLog_TypedConfig{TypedConfig: pack(f)}}}
}
