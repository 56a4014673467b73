package xds

import (
	"net/netip"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacpb "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netext "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	netrbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	uritemplate "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// named is one filter of a chain.
type named struct {
	name   string
	config proto.Message
}

// httpFilters encodes authorization steps as Istio gives them to Envoy: RBAC
// filters, and for CUSTOM a shadow RBAC whose verdict switches ext_authz on.
func httpFilters(filters []ir.Filter) []named {
	var out []named
	for _, f := range filters {
		switch {
		case f.JWT != nil:
			out = append(out, named{"envoy.filters.http.jwt_authn", encodeJWT(f.JWT)})
		case f.RBAC != nil && f.RBAC.DryRun:
			out = append(out, named{"envoy.filters.http.rbac", &httprbac.RBAC{ShadowRules: rules(f.RBAC.Action, f.RBAC.Policies), ShadowRulesStatPrefix: "istio_dry_run_" + strings.ToLower(string(f.RBAC.Action)) + "_"}})
		case f.RBAC != nil:
			out = append(out, named{"envoy.filters.http.rbac", &httprbac.RBAC{Rules: rules(f.RBAC.Action, f.RBAC.Policies)}})
		case f.ExtAuthz.Broken != "" || f.ExtAuthz.Cluster == "":
			out = append(out, named{"envoy.filters.http.rbac", &httprbac.RBAC{Rules: rules(ir.Deny, brokenNames(f.ExtAuthz))}})
		default:
			e := f.ExtAuthz
			out = append(out,
				named{"envoy.filters.http.rbac", &httprbac.RBAC{ShadowRules: rules(ir.Deny, shadowNames(e)), ShadowRulesStatPrefix: shadowPrefix}},
				named{"envoy.filters.http.ext_authz", extAuthz(e)})
		}
	}
	return out
}

// networkFilters is httpFilters for TCP chains.
func networkFilters(filters []ir.Filter) []named {
	var out []named
	for _, f := range filters {
		switch {
		case f.JWT != nil: // of requests only: compile makes none for a connection
		case f.RBAC != nil && f.RBAC.DryRun:
			out = append(out, named{"envoy.filters.network.rbac", &netrbac.RBAC{StatPrefix: "tcp.", ShadowRules: rules(f.RBAC.Action, f.RBAC.Policies), ShadowRulesStatPrefix: "istio_dry_run_" + strings.ToLower(string(f.RBAC.Action)) + "_"}})
		case f.RBAC != nil:
			out = append(out, named{"envoy.filters.network.rbac", &netrbac.RBAC{StatPrefix: "tcp.", Rules: rules(f.RBAC.Action, f.RBAC.Policies)}})
		case f.ExtAuthz.Broken != "" || f.ExtAuthz.Cluster == "":
			out = append(out, named{"envoy.filters.network.rbac", &netrbac.RBAC{StatPrefix: "tcp.", Rules: rules(ir.Deny, brokenNames(f.ExtAuthz))}})
		default:
			e := f.ExtAuthz
			out = append(out,
				named{"envoy.filters.network.rbac", &netrbac.RBAC{StatPrefix: "tcp.", ShadowRules: rules(ir.Deny, shadowNames(e)), ShadowRulesStatPrefix: shadowPrefix}},
				named{"envoy.filters.network.ext_authz", &netext.ExtAuthz{StatPrefix: "tcp.", GrpcService: grpcService(e), TransportApiVersion: core.ApiVersion_V3, FailureModeAllow: e.FailOpen, FilterEnabledMetadata: enabledBy(e, "envoy.filters.network.rbac")}})
		}
	}
	return out
}

func rules(action ir.Action, policies []ir.Policy) *rbacpb.RBAC {
	out := &rbacpb.RBAC{Action: map[ir.Action]rbacpb.RBAC_Action{ir.Deny: rbacpb.RBAC_DENY, ir.Audit: rbacpb.RBAC_LOG}[action], Policies: map[string]*rbacpb.Policy{}}
	for _, p := range policies {
		out.Policies[p.Name] = &rbacpb.Policy{Permissions: []*rbacpb.Permission{permission(p.Permission)}, Principals: []*rbacpb.Principal{principal(p.Principal)}}
	}
	return out
}

func permission(e *ir.Expr) *rbacpb.Permission {
	set := func(args []*ir.Expr) *rbacpb.Permission_Set {
		s := &rbacpb.Permission_Set{}
		for _, a := range args {
			s.Rules = append(s.Rules, permission(a))
		}
		return s
	}
	switch {
	case e == nil || e.Op == ir.Any:
		return &rbacpb.Permission{Rule: &rbacpb.Permission_Any{Any: true}}
	case e.Op == ir.And:
		return &rbacpb.Permission{Rule: &rbacpb.Permission_AndRules{AndRules: set(e.Args)}}
	case e.Op == ir.Or:
		return &rbacpb.Permission{Rule: &rbacpb.Permission_OrRules{OrRules: set(e.Args)}}
	case e.Op == ir.Not:
		return &rbacpb.Permission{Rule: &rbacpb.Permission_NotRule{NotRule: permission(e.Args[0])}}
	}
	switch e.Attr {
	case ir.AttrDestinationPort:
		return &rbacpb.Permission{Rule: &rbacpb.Permission_DestinationPort{DestinationPort: uint32(e.Port)}}
	case ir.AttrDestinationIP:
		return &rbacpb.Permission{Rule: &rbacpb.Permission_DestinationIp{DestinationIp: cidrRange(e.CIDR)}}
	case ir.AttrSNI:
		return &rbacpb.Permission{Rule: &rbacpb.Permission_RequestedServerName{RequestedServerName: stringMatcher(e.Value)}}
	case ir.AttrPath:
		if e.Value.Kind == ir.Template {
			return &rbacpb.Permission{Rule: &rbacpb.Permission_UriTemplate{UriTemplate: uriTemplate(e.Value.Value)}}
		}
		return &rbacpb.Permission{Rule: &rbacpb.Permission_UrlPath{UrlPath: &matcher.PathMatcher{Rule: &matcher.PathMatcher_Path{Path: stringMatcher(e.Value)}}}}
	}
	return &rbacpb.Permission{Rule: &rbacpb.Permission_Header{Header: headerMatcher(e)}}
}

func principal(e *ir.Expr) *rbacpb.Principal {
	set := func(args []*ir.Expr) *rbacpb.Principal_Set {
		s := &rbacpb.Principal_Set{}
		for _, a := range args {
			s.Ids = append(s.Ids, principal(a))
		}
		return s
	}
	switch {
	case e == nil || e.Op == ir.Any:
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_Any{Any: true}}
	case e.Op == ir.And:
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_AndIds{AndIds: set(e.Args)}}
	case e.Op == ir.Or:
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_OrIds{OrIds: set(e.Args)}}
	case e.Op == ir.Not:
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_NotId{NotId: principal(e.Args[0])}}
	}
	switch e.Attr {
	case ir.AttrClaim, ir.AttrAudience, ir.AttrPresenter:
		//lint:ignore SA1019 what istiod sends, and what older Envoys read
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_Metadata{Metadata: claimMatcher(e.ClaimPath(), e.Value)}}
	case ir.AttrSourceIP:
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_DirectRemoteIp{DirectRemoteIp: cidrRange(e.CIDR)}}
	case ir.AttrRemoteIP:
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_RemoteIp{RemoteIp: cidrRange(e.CIDR)}}
	case ir.AttrPrincipal:
		return &rbacpb.Principal{Identifier: &rbacpb.Principal_Authenticated_{Authenticated: &rbacpb.Principal_Authenticated{PrincipalName: stringMatcher(e.Value)}}}
	}
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_Header{Header: headerMatcher(e)}}
}

// uriTemplate is a path template in Envoy's words: without Istio's braces.
func uriTemplate(v string) *core.TypedExtensionConfig {
	v = strings.NewReplacer("{**}", "**", "{*}", "*").Replace(v)
	return &core.TypedExtensionConfig{Name: "uri-template", TypedConfig: pack(&uritemplate.UriTemplateMatchConfig{PathTemplate: v})}
}

func headerMatcher(e *ir.Expr) *routepb.HeaderMatcher {
	name := map[ir.Attr]string{ir.AttrHost: ":authority", ir.AttrMethod: ":method"}[e.Attr]
	h := &routepb.HeaderMatcher{Name: orDefault(name, e.Key)}
	if e.Value.Kind == ir.Present {
		h.HeaderMatchSpecifier = &routepb.HeaderMatcher_PresentMatch{PresentMatch: true}
	} else {
		h.HeaderMatchSpecifier = &routepb.HeaderMatcher_StringMatch{StringMatch: stringMatcher(e.Value)}
	}
	return h
}

func cidrRange(s string) *core.CidrRange {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return &core.CidrRange{AddressPrefix: s}
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return &core.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: u32(uint32(p.Bits()))}
}
