package istio

import (
	"slices"
	"strings"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacpb "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsfilter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httppb "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// notCompared are the fields that never count, by full name, with the reason.
var notCompared = map[string]string{
	"envoy.config.cluster.v3.Cluster.alt_stat_name":                        statName,
	"envoy.config.cluster.v3.Cluster.metadata":                             metadata,
	"envoy.config.cluster.v3.Cluster.filters":                              "Istio's peer metadata exchange",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.track_remaining":   "statistics only",
	"envoy.config.cluster.v3.Cluster.cleanup_interval":                     "Envoy's housekeeping of original destinations",
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig.eds_config":          transport,
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig.sds_config": transport,
	"envoy.config.cluster.v3.Cluster.dns_jitter":                           resolver,
	"envoy.config.cluster.v3.Cluster.dns_lookup_family":                    resolver,
	"envoy.config.cluster.v3.Cluster.typed_dns_resolver_config":            resolver,
	"envoy.config.core.v3.RuntimeDouble.runtime_key":                       "a name in Envoy's runtime; what counts is the default value",
	"envoy.config.core.v3.Locality":                                        "in the key",

	"envoy.config.endpoint.v3.LocalityLbEndpoints.locality": "in the key",
	"envoy.config.endpoint.v3.LocalityLbEndpoints.priority": "in the key",

	"envoy.config.listener.v3.Listener.name":                                       "the address is the key",
	"envoy.config.listener.v3.Listener.stat_prefix":                                statName,
	"envoy.config.listener.v3.Listener.metadata":                                   metadata,
	"envoy.config.listener.v3.Listener.access_log":                                 accessLog,
	"envoy.config.listener.v3.Listener.max_connections_to_accept_per_socket_event": "how fast Envoy's accept loop goes",
	"envoy.config.listener.v3.Listener.listener_filters":                           "they only find out what the chains match on",
	"envoy.config.listener.v3.Listener.listener_filters_timeout":                   "as listener_filters",
	"envoy.config.listener.v3.Listener.continue_on_listener_filters_timeout":       "as listener_filters",
	"envoy.config.listener.v3.Listener.address":                                    "in the key",
	"envoy.config.listener.v3.Listener.use_original_dst":                           "as listener_filters",
	"envoy.config.listener.v3.Filter.name":                                         "what the filter is told says which it is",
	"envoy.config.listener.v3.FilterChain.name":                                    "the match is the key",
	"envoy.config.listener.v3.FilterChain.metadata":                                metadata,
	"envoy.config.listener.v3.FilterChain.filter_chain_match":                      "in the key",
	"envoy.config.listener.v3.FilterChain.transport_socket_connect_timeout":        "how long a handshake may take",

	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.stat_prefix": statName,
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.access_log":  accessLog,

	"envoy.extensions.filters.network.http_connection_manager.v3.Rds.config_source": transport,
	"envoy.extensions.filters.http.rbac.v3.RBAC.shadow_rules_stat_prefix":           statName,
	"envoy.extensions.filters.network.rbac.v3.RBAC.shadow_rules_stat_prefix":        statName,
	"envoy.extensions.filters.network.rbac.v3.RBAC.stat_prefix":                     statName,
	hcmName + "stat_prefix":                      statName,
	hcmName + "access_log":                       accessLog,
	hcmName + "access_log_options":               accessLog,
	hcmName + "tracing":                          "spans are not Envoy's here",
	hcmName + "request_id_extension":             "spans are not Envoy's here",
	hcmName + "proxy_100_continue":               "Tulle always forwards 100-continue",
	hcmName + "server_name":                      "which Server header local answers carry",
	hcmName + "server_header_transformation":     "which Server header local answers carry",
	hcmName + "path_with_escaped_slashes_action": "compared as normalize_path and merge_slashes; KEEP_UNCHANGED is the default",
	hcmName + "strip_trailing_host_dot":          "Tulle always strips it",

	"envoy.config.route.v3.RouteConfiguration.validate_clusters":                   "how Envoy checks a table at load",
	"envoy.config.route.v3.RouteConfiguration.ignore_port_in_host_matching":        "Tulle always compares without port",
	"envoy.config.route.v3.RouteConfiguration.max_direct_response_body_size_bytes": "a limit of Envoy's",
	"envoy.config.route.v3.VirtualHost.metadata":                                   metadata,
	"envoy.config.route.v3.VirtualHost.include_request_attempt_count":              "x-envoy-attempt-count, always sent by Tulle",
	"envoy.config.route.v3.Route.metadata":                                         metadata,
	"envoy.config.route.v3.Route.decorator":                                        "name of the span",
}

const (
	statName  = "a name in Envoy's statistics"
	metadata  = "notes for Istio's filters and ours"
	transport = "where the proxy fetches it; Tulle's sidecar has one stream for everything"
	accessLog = "access logs are compared in internal/telemetry"
	resolver  = "how Envoy asks the name server; Tulle asks for both address families"
	hcmName   = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager."
)

// decides are the filters whose presence and order are compared; the others
// are Istio's own (statistics, metadata, ALPN) or do nothing without a route
// that configures them (cors, fault).
var decides = []string{"rbac", "ext_authz", "jwt_authn", "tcp_proxy", "http_connection_manager", "sni_cluster"}

func filterDecides(name string) bool {
	for _, d := range decides {
		if strings.HasSuffix(name, "."+d) || name == d {
			return true
		}
	}
	return false
}

// normalized rewrites m where two spellings mean the same to Envoy. It works on
// a copy.
func normalized(m proto.Message) proto.Message {
	switch m := m.(type) {
	case *clusterpb.Cluster:
		if m.Name == "BlackHoleCluster" { // no endpoint: nothing else can matter
			return &clusterpb.Cluster{Name: m.Name, ClusterDiscoveryType: m.ClusterDiscoveryType}
		}
		c := proto.Clone(m).(*clusterpb.Cluster)
		if l := c.CommonLbConfig; proto.Size(l) == 0 || c.GetType() == clusterpb.Cluster_ORIGINAL_DST && l.GetHealthyPanicThreshold().GetValue() == 0 {
			c.CommonLbConfig = nil // original destinations are never unhealthy
		}
		if r := c.GetRingHashLbConfig(); r != nil && r.MinimumRingSize == nil {
			r.MinimumRingSize = wrapperspb.UInt64(1024) // Envoy's default
		}
		for k, v := range c.TypedExtensionProtocolOptions {
			o := &httppb.HttpProtocolOptions{}
			if v.UnmarshalTo(o) == nil && proto.Size(normalized(o)) == 0 {
				delete(c.TypedExtensionProtocolOptions, k)
			}
		}
		return c
	case *tlspb.CertificateValidationContext:
		return untypedNames(m)
	case *endpointpb.LbEndpoint:
		c := proto.Clone(m).(*endpointpb.LbEndpoint)
		if c.HealthStatus == corepb.HealthStatus_HEALTHY {
			c.HealthStatus = corepb.HealthStatus_UNKNOWN // Envoy treats both alike
		}
		for k := range c.Metadata.GetFilterMetadata() {
			if k != "envoy.transport_socket_match" {
				delete(c.Metadata.FilterMetadata, k)
			}
		}
		if len(c.Metadata.GetFilterMetadata()) == 0 {
			c.Metadata = nil
		}
		return c
	case *listenerpb.Listener:
		c := proto.Clone(m).(*listenerpb.Listener)
		if c.DefaultFilterChain != nil { // the same as a chain that matches everything
			c.FilterChains = append(c.FilterChains, c.DefaultFilterChain)
			c.DefaultFilterChain = nil
		}
		return c
	case *listenerpb.FilterChain:
		c := proto.Clone(m).(*listenerpb.FilterChain)
		c.Filters = keep(c.Filters, func(f *listenerpb.Filter) bool { return filterDecides(f.Name) })
		return c
	case *hcmpb.HttpConnectionManager:
		c := proto.Clone(m).(*hcmpb.HttpConnectionManager)
		c.HttpFilters = keep(c.HttpFilters, func(f *hcmpb.HttpFilter) bool { return filterDecides(f.Name) })
		if proto.Size(c.HttpProtocolOptions) == 0 {
			c.HttpProtocolOptions = nil
		}
		if c.ForwardClientCertDetails == hcmpb.HttpConnectionManager_SANITIZE {
			c.SetCurrentClientCertDetails = nil // the header is removed: what it would hold does not matter
		}
		return c
	case *tlspb.TlsParameters:
		c := proto.Clone(m).(*tlspb.TlsParameters)
		if c.TlsMinimumProtocolVersion == tlspb.TlsParameters_TLSv1_2 { // everybody's least
			c.TlsMinimumProtocolVersion = tlspb.TlsParameters_TLS_AUTO
		}
		if c.TlsMaximumProtocolVersion == tlspb.TlsParameters_TLSv1_3 {
			c.TlsMaximumProtocolVersion = tlspb.TlsParameters_TLS_AUTO
		}
		if slices.Equal(c.CipherSuites, istioCiphers) {
			c.CipherSuites = nil
		}
		return c
	case *tlspb.CommonTlsContext:
		c := withoutAgent(m)
		if list := c.TlsCertificateSdsSecretConfigs; len(list) == 1 && list[0].Name == "default" {
			// Between two proxies of the mesh: Istio's filter writes ALPN anew for
			// each connection, so what stands here is not what is offered.
			c.AlpnProtocols = nil
		}
		if c.TlsParams != nil && proto.Size(normalized(c.TlsParams)) == 0 {
			c.TlsParams = nil
		}
		return c
	case *httppb.HttpProtocolOptions:
		c := proto.Clone(m).(*httppb.HttpProtocolOptions)
		if proto.Size(c.CommonHttpProtocolOptions) == 0 {
			c.CommonHttpProtocolOptions = nil
		}
		if e := c.GetExplicitHttpConfig(); e != nil && e.GetHttpProtocolOptions() != nil && proto.Size(e.GetHttpProtocolOptions()) == 0 {
			c.UpstreamProtocolOptions = nil // HTTP/1.1 is what a cluster speaks when nothing is said
		}
		return c
	case *clusterpb.Cluster_SlowStartConfig:
		c := proto.Clone(m).(*clusterpb.Cluster_SlowStartConfig)
		if c.MinWeightPercent == nil {
			c.MinWeightPercent = &typepb.Percent{Value: 10} // Envoy's default
		}
		if c.Aggression == nil {
			c.Aggression = &corepb.RuntimeDouble{DefaultValue: 1} // Envoy's default
		}
		return c
	case *clusterpb.OutlierDetection:
		return outlierDefaults(m)
	case *routepb.Route:
		return withoutIdleFault(hoisted(m))
	case *corsfilter.CorsPolicy:
		c := proto.Clone(m).(*corsfilter.CorsPolicy)
		if !c.AllowCredentials.GetValue() {
			c.AllowCredentials = nil
		}
		return c
	case *routepb.RouteMatch:
		c := proto.Clone(m).(*routepb.RouteMatch)
		if c.CaseSensitive.GetValue() || c.GetSafeRegex() != nil || c.GetPrefix() == "/" { // the default, and where there is no case
			c.CaseSensitive = nil
		}
		return c
	case *routepb.RetryPolicy:
		c := proto.Clone(m).(*routepb.RetryPolicy)
		if len(c.RetryHostPredicate) == 0 {
			c.HostSelectionRetryMaxAttempts = 0 // nothing rejects a host
		}
		return c
	case *typepb.FractionalPercent:
		c := proto.Clone(m).(*typepb.FractionalPercent)
		switch c.Denominator {
		case typepb.FractionalPercent_HUNDRED:
			c.Numerator *= 10_000
		case typepb.FractionalPercent_TEN_THOUSAND:
			c.Numerator *= 100
		}
		c.Denominator = typepb.FractionalPercent_MILLION
		return c
	case *corepb.DataSource:
		if b := m.GetInlineBytes(); b != nil {
			return &corepb.DataSource{Specifier: &corepb.DataSource_InlineString{InlineString: string(b)}}
		}
	case *routepb.RouteAction:
		c := proto.Clone(m).(*routepb.RouteAction)
		if s := c.MaxStreamDuration; s != nil && s.MaxStreamDuration.AsDuration() == 0 { // the newer spelling of the same
			c.MaxGrpcTimeout, c.MaxStreamDuration = s.GrpcTimeoutHeaderMax, nil //nolint:staticcheck
		}
		return c
	case *rbacpb.Policy: // how a rule is written down differs; internal/authz judges what it decides
		return &rbacpb.Policy{}
	case *matcherpb.RegexMatcher:
		return &matcherpb.RegexMatcher{Regex: m.Regex}
	}
	return m
}

// hoisted writes a single weighted cluster as the plain cluster it amounts to.
func hoisted(m *routepb.Route) *routepb.Route {
	list := m.GetRoute().GetWeightedClusters().GetClusters()
	if len(list) != 1 {
		return m
	}
	c := proto.Clone(m).(*routepb.Route)
	w := list[0]
	c.GetRoute().ClusterSpecifier = &routepb.RouteAction_Cluster{Cluster: w.Name}
	c.RequestHeadersToAdd = append(c.RequestHeadersToAdd, w.RequestHeadersToAdd...)
	c.RequestHeadersToRemove = append(c.RequestHeadersToRemove, w.RequestHeadersToRemove...)
	c.ResponseHeadersToAdd = append(c.ResponseHeadersToAdd, w.ResponseHeadersToAdd...)
	c.ResponseHeadersToRemove = append(c.ResponseHeadersToRemove, w.ResponseHeadersToRemove...)
	if h := w.GetHostRewriteLiteral(); h != "" {
		c.GetRoute().HostRewriteSpecifier = &routepb.RouteAction_HostRewriteLiteral{HostRewriteLiteral: h}
	}
	return c
}

// withoutIdleFault drops faults that hit nobody.
func withoutIdleFault(m *routepb.Route) proto.Message {
	const filter = "envoy.filters.http.fault"
	f := &faultpb.HTTPFault{}
	if v := m.TypedPerFilterConfig[filter]; v == nil || v.UnmarshalTo(f) != nil {
		return m
	}
	if f.GetDelay().GetPercentage().GetNumerator() == 0 {
		f.Delay = nil
	}
	if f.GetAbort().GetPercentage().GetNumerator() == 0 {
		f.Abort = nil
	}
	if f.Delay != nil || f.Abort != nil {
		return m
	}
	c := proto.Clone(m).(*routepb.Route)
	delete(c.TypedPerFilterConfig, filter)
	return c
}

// outlierDefaults fills in what Envoy assumes where nothing is said.
func outlierDefaults(m *clusterpb.OutlierDetection) proto.Message {
	c := proto.Clone(m).(*clusterpb.OutlierDetection)
	number := func(field **wrapperspb.UInt32Value, v uint32) {
		if *field == nil {
			*field = wrapperspb.UInt32(v)
		}
	}
	number(&c.Consecutive_5Xx, 5)
	number(&c.EnforcingConsecutive_5Xx, 100)
	number(&c.MaxEjectionPercent, 10)
	number(&c.EnforcingConsecutiveGatewayFailure, 0)
	if c.EnforcingConsecutiveGatewayFailure.Value == 0 {
		c.ConsecutiveGatewayFailure = nil // counted, without effect
	}
	if c.SplitExternalLocalOriginErrors {
		number(&c.ConsecutiveLocalOriginFailure, 5)
		number(&c.EnforcingConsecutiveLocalOriginFailure, 100)
		number(&c.EnforcingLocalOriginSuccessRate, 0) // Istio writes it; Tulle has no success rate
	}
	if c.Interval == nil {
		c.Interval = durationpb.New(10 * time.Second)
	}
	if c.BaseEjectionTime == nil {
		c.BaseEjectionTime = durationpb.New(30 * time.Second)
	}
	if c.MaxEjectionTime == nil {
		c.MaxEjectionTime = durationpb.New(max(300*time.Second, c.BaseEjectionTime.AsDuration()))
	}
	return c
}

// istioCiphers is what Istio lists when nobody said anything; Go's own default
// for TLS 1.2 is a subset of it.
var istioCiphers = []string{"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-GCM-SHA256"}

func keep[T any](list []T, f func(T) bool) []T {
	var out []T
	for _, v := range list {
		if f(v) {
			out = append(out, v)
		}
	}
	return out
}

// shorten makes paths readable.
var shorten = strings.NewReplacer(
	"typed_extension_protocol_options[envoy.extensions.upstreams.http.v3.HttpProtocolOptions]", "http",
	"transport_socket.typed_config.common_tls_context", "tls",
	"transport_socket.typed_config", "tls",
	"filters[envoy.filters.network.http_connection_manager].typed_config", "http",
	"filters[envoy.filters.network.tcp_proxy].typed_config", "tcp",
	".combined_validation_context.default_validation_context", ".validation",
	".combined_validation_context.validation_context_sds_secret_config", ".validation_secret",
	".tls_certificate_sds_secret_configs", ".certificate",
)
