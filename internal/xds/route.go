package xds

import (
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushosts "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	priorities "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func encodeRoutes(t *ir.RouteTable) (*routepb.RouteConfiguration, error) {
	out := &routepb.RouteConfiguration{Name: t.Name, ValidateClusters: wrapperspb.Bool(false), IgnorePortInHostMatching: true}
	for _, v := range t.VirtualHosts {
		meta, err := carry(v, v.Origin)
		if err != nil {
			return nil, err
		}
		vh := &routepb.VirtualHost{Name: v.Name, Domains: v.Domains, Metadata: meta, IncludeRequestAttemptCount: true}
		for _, r := range v.Routes {
			vh.Routes = append(vh.Routes, encodeRoute(r))
		}
		out.VirtualHosts = append(out.VirtualHosts, vh)
	}
	return out, nil
}

func decodeRoutes(body *anypb.Any) (*ir.RouteTable, error) {
	m := &routepb.RouteConfiguration{}
	if err := body.UnmarshalTo(m); err != nil {
		return nil, err
	}
	out := &ir.RouteTable{Name: m.Name}
	for _, v := range m.VirtualHosts {
		vh := &ir.VirtualHost{}
		if err := carried(v.Metadata, vh); err != nil {
			return nil, err
		}
		out.VirtualHosts = append(out.VirtualHosts, vh)
	}
	return out, nil
}

func encodeRoute(r *ir.Route) *routepb.Route {
	out := &routepb.Route{Name: r.Name, Match: encodeMatch(&r.Match), StatPrefix: r.StatPrefix, TypedPerFilterConfig: perFilter(r)}
	out.RequestHeadersToAdd, out.RequestHeadersToRemove = encodeOps(r.Request)
	out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = encodeOps(r.Response)
	switch {
	case r.Redirect != nil:
		out.Action = &routepb.Route_Redirect{Redirect: encodeRedirect(r.Redirect)}
	case r.Direct != nil:
		d := &routepb.DirectResponseAction{Status: uint32(r.Direct.Status)}
		if r.Direct.Bytes != nil {
			d.Body = &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: r.Direct.Bytes}}
		} else if r.Direct.Body != "" {
			d.Body = &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: r.Direct.Body}}
		}
		out.Action = &routepb.Route_DirectResponse{DirectResponse: d}
	case r.Forward != nil:
		out.Action = &routepb.Route_Route{Route: encodeForward(r.Forward)}
	}
	return out
}

func encodeMatch(m *ir.RouteMatch) *routepb.RouteMatch {
	out := &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}}
	if p := m.Path; p != nil {
		switch p.Kind {
		case ir.Exact:
			out.PathSpecifier = &routepb.RouteMatch_Path{Path: p.Value}
		case ir.Prefix:
			out.PathSpecifier = &routepb.RouteMatch_Prefix{Prefix: p.Value}
		default:
			out.PathSpecifier = &routepb.RouteMatch_SafeRegex{SafeRegex: regex(p.Value)}
		}
		if p.IgnoreCase {
			out.CaseSensitive = wrapperspb.Bool(false)
		}
	}
	for _, h := range m.Headers {
		hm := &routepb.HeaderMatcher{Name: h.Name, InvertMatch: h.Invert, TreatMissingHeaderAsEmpty: h.TreatMissingAsEmpty}
		if h.Value.Kind == ir.Present {
			hm.HeaderMatchSpecifier = &routepb.HeaderMatcher_PresentMatch{PresentMatch: true}
		} else {
			hm.HeaderMatchSpecifier = &routepb.HeaderMatcher_StringMatch{StringMatch: stringMatcher(h.Value)}
		}
		out.Headers = append(out.Headers, hm)
	}
	for _, c := range m.Claims {
		cm := claimMatcher(c.Path, c.Value)
		cm.Invert = c.Invert
		out.DynamicMetadata = append(out.DynamicMetadata, cm)
	}
	for _, q := range m.Query {
		qm := &routepb.QueryParameterMatcher{Name: q.Name}
		if q.Value.Kind == ir.Present {
			qm.QueryParameterMatchSpecifier = &routepb.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		} else {
			qm.QueryParameterMatchSpecifier = &routepb.QueryParameterMatcher_StringMatch{StringMatch: stringMatcher(q.Value)}
		}
		out.QueryParameters = append(out.QueryParameters, qm)
	}
	return out
}

func encodeForward(f *ir.Forward) *routepb.RouteAction {
	out := &routepb.RouteAction{Timeout: durationpb.New(f.Timeout.D()), RetryPolicy: encodeRetry(f.Retry)}
	// Istio sets this field, deprecated as it is: it makes Envoy look at
	// grpc-timeout, bounded by the route's timeout.
	//lint:ignore SA1019 what istiod sends, and what older Envoys read
	out.MaxGrpcTimeout = durationpb.New(f.Timeout.D())
	out.AppendXForwardedHost = f.AppendForwardedHost
	for _, m := range f.Mirrors {
		out.RequestMirrorPolicies = append(out.RequestMirrorPolicies, &routepb.RouteAction_RequestMirrorPolicy{
			Cluster: m.Cluster, TraceSampled: wrapperspb.Bool(false), DisableShadowHostSuffixAppend: !m.ShadowHost, RuntimeFraction: &core.RuntimeFractionalPercent{DefaultValue: fraction(m.Share)}})
	}
	if len(f.Clusters) == 1 && f.Clusters[0].Request.IsZero() && f.Clusters[0].Response.IsZero() && f.Clusters[0].HostRewrite == "" {
		out.ClusterSpecifier = &routepb.RouteAction_Cluster{Cluster: f.Clusters[0].Name}
	} else {
		w := &routepb.WeightedCluster{}
		for _, c := range f.Clusters {
			weight := c.Weight
			if len(f.Clusters) == 1 {
				weight = max(weight, 1)
			}
			cw := &routepb.WeightedCluster_ClusterWeight{Name: c.Name, Weight: u32(weight)}
			cw.RequestHeadersToAdd, cw.RequestHeadersToRemove = encodeOps(c.Request)
			cw.ResponseHeadersToAdd, cw.ResponseHeadersToRemove = encodeOps(c.Response)
			if c.HostRewrite != "" {
				cw.HostRewriteSpecifier = &routepb.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: c.HostRewrite}
			}
			w.Clusters = append(w.Clusters, cw)
		}
		out.ClusterSpecifier = &routepb.RouteAction_WeightedClusters{WeightedClusters: w}
	}
	for _, p := range f.HashPolicy {
		out.HashPolicy = append(out.HashPolicy, encodeHashPolicy(&p))
	}
	if f.HostRewrite != "" {
		out.HostRewriteSpecifier = &routepb.RouteAction_HostRewriteLiteral{HostRewriteLiteral: f.HostRewrite}
	}
	switch {
	case f.RegexRewrite != nil:
		out.RegexRewrite = &matcher.RegexMatchAndSubstitute{Pattern: regex(f.RegexRewrite.Match), Substitution: f.RegexRewrite.Substitution}
	case f.PrefixRewrite != "":
		out.PrefixRewrite = f.PrefixRewrite
	}
	return out
}

func encodeHashPolicy(p *ir.HashPolicy) *routepb.RouteAction_HashPolicy {
	switch {
	case p.Header != "":
		return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_Header_{Header: &routepb.RouteAction_HashPolicy_Header{HeaderName: p.Header}}}
	case p.Cookie != nil:
		c := &routepb.RouteAction_HashPolicy_Cookie{Name: p.Cookie.Name, Path: p.Cookie.Path}
		if p.Cookie.TTL != nil {
			c.Ttl = durationpb.New(p.Cookie.TTL.D())
		}
		for _, a := range p.Cookie.Attributes {
			name, value, _ := strings.Cut(a, "=")
			c.Attributes = append(c.Attributes, &routepb.RouteAction_HashPolicy_CookieAttribute{Name: name, Value: value})
		}
		return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_Cookie_{Cookie: c}}
	case p.Query != "":
		return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_QueryParameter_{QueryParameter: &routepb.RouteAction_HashPolicy_QueryParameter{Name: p.Query}}}
	}
	return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_ConnectionProperties_{
		ConnectionProperties: &routepb.RouteAction_HashPolicy_ConnectionProperties{SourceIp: p.SourceIP}}}
}

func encodeRetry(r *ir.RetryPolicy) *routepb.RetryPolicy {
	if r == nil {
		return nil
	}
	out := &routepb.RetryPolicy{RetryOn: strings.Join(r.On, ","), NumRetries: u32(r.Attempts), PerTryTimeout: duration(r.PerTryTimeout)}
	for _, c := range r.Codes {
		out.RetriableStatusCodes = append(out.RetriableStatusCodes, uint32(c))
	}
	if r.Backoff > 0 {
		out.RetryBackOff = &routepb.RetryPolicy_RetryBackOff{BaseInterval: duration(r.Backoff), MaxInterval: duration(r.MaxBackoff)}
	}
	if r.PreviousHosts {
		out.RetryHostPredicate = []*routepb.RetryPolicy_RetryHostPredicate{{Name: "envoy.retry_host_predicates.previous_hosts", ConfigType: &routepb.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previoushosts.PreviousHostsPredicate{})}}}
	}
	out.HostSelectionRetryMaxAttempts = int64(r.HostAttempts)
	if r.PreviousPriorities {
		out.RetryPriority = &routepb.RetryPolicy_RetryPriority{Name: "envoy.retry_priorities.previous_priorities", ConfigType: &routepb.RetryPolicy_RetryPriority_TypedConfig{
			TypedConfig: pack(&priorities.PreviousPrioritiesConfig{UpdateFrequency: 2})}}
	}
	return out
}

func encodeRedirect(r *ir.Redirect) *routepb.RedirectAction {
	out := &routepb.RedirectAction{HostRedirect: r.Host, PortRedirect: uint32(r.Port), ResponseCode: map[int]routepb.RedirectAction_RedirectResponseCode{
		302: routepb.RedirectAction_FOUND, 303: routepb.RedirectAction_SEE_OTHER, 307: routepb.RedirectAction_TEMPORARY_REDIRECT, 308: routepb.RedirectAction_PERMANENT_REDIRECT}[r.Code]}
	switch {
	case r.HTTPS:
		out.SchemeRewriteSpecifier = &routepb.RedirectAction_HttpsRedirect{HttpsRedirect: true}
	case r.Scheme != "":
		out.SchemeRewriteSpecifier = &routepb.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	switch {
	case r.Path != "":
		out.PathRewriteSpecifier = &routepb.RedirectAction_PathRedirect{PathRedirect: r.Path}
	case r.Prefix != "":
		out.PathRewriteSpecifier = &routepb.RedirectAction_PrefixRewrite{PrefixRewrite: r.Prefix}
	}
	return out
}

func encodeOps(o ir.HeaderOps) (add []*core.HeaderValueOption, remove []string) {
	for _, h := range o.Set {
		add = append(add, &core.HeaderValueOption{Header: &core.HeaderValue{Key: h.Name, Value: h.Value}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD})
	}
	for _, h := range o.Add {
		add = append(add, &core.HeaderValueOption{Header: &core.HeaderValue{Key: h.Name, Value: h.Value}, AppendAction: core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD})
	}
	return add, o.Remove
}
