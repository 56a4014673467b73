package xds

import (
	"encoding/base64"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Where Istio has Envoy keep a verified token's payload.
const (
	jwtFilter  = "envoy.filters.http.jwt_authn"
	jwtPayload = "payload"
)

// encodeJWT writes the step as istiod does: a token that is there must be
// valid, none is no fault, and providers whose tokens are in the same place do
// not spoil each other.
func encodeJWT(f *ir.JWT) *jwtpb.JwtAuthentication {
	out := &jwtpb.JwtAuthentication{Providers: map[string]*jwtpb.JwtProvider{}, BypassCorsPreflight: true}
	var each, any []*jwtpb.JwtRequirement
	for i := range f.Providers {
		p := &f.Providers[i]
		out.Providers[p.Name] = encodeProvider(p, f.ClearRouteCache)
		named := &jwtpb.JwtRequirement{RequiresType: &jwtpb.JwtRequirement_ProviderName{ProviderName: p.Name}}
		any = append(any, named)
		each = append(each, requiresAny(named, &jwtpb.JwtRequirement{RequiresType: &jwtpb.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}}))
	}
	requires := each[0]
	if len(each) > 1 {
		requires = requiresAny(append(any, &jwtpb.JwtRequirement{RequiresType: &jwtpb.JwtRequirement_RequiresAll{RequiresAll: &jwtpb.JwtRequirementAndList{Requirements: each}}})...)
	}
	out.Rules = []*jwtpb.RequirementRule{{
		Match:           &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}},
		RequirementType: &jwtpb.RequirementRule_Requires{Requires: requires},
	}}
	return out
}

func requiresAny(list ...*jwtpb.JwtRequirement) *jwtpb.JwtRequirement {
	return &jwtpb.JwtRequirement{RequiresType: &jwtpb.JwtRequirement_RequiresAny{RequiresAny: &jwtpb.JwtRequirementOrList{Requirements: list}}}
}

func encodeProvider(p *ir.JWTProvider, clearRouteCache bool) *jwtpb.JwtProvider {
	keys := p.Keys
	if p.KeysMissing != "" {
		keys = nobodysKey(p.KeysMissing)
	}
	out := &jwtpb.JwtProvider{
		Issuer: p.Issuer, Audiences: p.Audiences, FromParams: p.FromParams, FromCookies: p.FromCookies, Forward: p.Forward,
		ForwardPayloadHeader: p.PayloadHeader, PayloadInMetadata: jwtPayload, ClearRouteCache: clearRouteCache,
		NormalizePayloadInMetadata: &jwtpb.JwtProvider_NormalizePayload{SpaceDelimitedClaims: p.SpaceDelimited},
		JwksSourceSpecifier:        &jwtpb.JwtProvider_LocalJwks{LocalJwks: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: keys}}},
	}
	for _, h := range p.FromHeaders {
		out.FromHeaders = append(out.FromHeaders, &jwtpb.JwtHeader{Name: h.Name, ValuePrefix: h.Prefix})
	}
	for _, c := range p.ClaimHeaders {
		out.ClaimToHeaders = append(out.ClaimToHeaders, &jwtpb.JwtClaimToHeader{HeaderName: c.Header, ClaimName: c.Claim})
	}
	return out
}

// nobodysKey is a key set that a stock Envoy accepts and nobody can sign for:
// its modulus is the text that says what is wrong (Istio's way too).
func nobodysKey(why string) string {
	return `{"keys":[{"kty":"RSA","kid":"missing","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString([]byte("the keys are missing: "+why)) + `"}]}`
}

// claimMatcher compares a claim of the payload that jwt_authn left: a string,
// or a list with such a string in it.
func claimMatcher(path []string, m ir.Match) *matcher.MetadataMatcher {
	out := &matcher.MetadataMatcher{Filter: jwtFilter}
	for _, key := range append([]string{jwtPayload}, path...) {
		out.Path = append(out.Path, &matcher.MetadataMatcher_PathSegment{Segment: &matcher.MetadataMatcher_PathSegment_Key{Key: key}})
	}
	value := &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_StringMatch{StringMatch: stringMatcher(m)}}
	list := &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_ListMatch{ListMatch: &matcher.ListMatcher{MatchPattern: &matcher.ListMatcher_OneOf{OneOf: value}}}}
	out.Value = &matcher.ValueMatcher{MatchPattern: &matcher.ValueMatcher_OrMatch{OrMatch: &matcher.OrMatcher{ValueMatchers: []*matcher.ValueMatcher{list, value}}}}
	return out
}
