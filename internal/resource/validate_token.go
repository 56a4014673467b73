package resource

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/internal/jwks"
)

// maxSpaceDelimited is the CRD's bound.
const maxSpaceDelimited = 64

func validateRequestAuthentication(o *object, r *security.RequestAuthentication) {
	o.targets(r.Selector, r.TargetRef, r.TargetRefs)
	for i, j := range r.JwtRules {
		path := FieldPath("spec.jwtRules", i)
		if j == nil {
			o.fail(path, "a rule may not be null")
			continue
		}
		o.tokenKeys(path, j)
		o.tokenPlaces(path, j)
		o.tokenOutputs(path, j)
	}
}

// tokenKeys: whose tokens, and with which keys.
func (o *object) tokenKeys(path string, j *security.JWTRule) {
	if j.Issuer == "" && j.JwksUri == "" {
		o.fail(path+".issuer", "an issuer is needed")
		return
	}
	o.noneEmpty(path+".audiences", j.Audiences)
	if j.Jwks != "" && j.JwksUri != "" {
		o.warn(path+".jwksUri", "not used beside jwks, as in Istio")
	}
	switch {
	case j.Jwks != "":
		if _, err := jwks.Parse([]byte(j.Jwks)); err != nil {
			o.fail(path+".jwks", err.Error())
		}
	case j.JwksUri != "":
		o.webAddress(path+".jwksUri", j.JwksUri)
	default: // the issuer's own document names its keys
		o.webAddress(path+".issuer", j.Issuer, "set jwksUri or jwks")
	}
	o.duration(path+".timeout", j.Timeout)
}

func (o *object) webAddress(path, v string, hint ...string) {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		o.fail(path, fmt.Sprintf("%q is not a URL of http or https, from which keys could be fetched", v), hint...)
		return
	}
	if host := u.Hostname(); u.Scheme == "http" && strings.Contains(host, ".") && !strings.Contains(host+".", ".svc.") {
		o.warn(path, "keys are fetched without TLS: who can change that answer can sign tokens", "use https")
	}
}

func (o *object) noneEmpty(path string, list []string) {
	for i, v := range list {
		if v == "" {
			o.fail(FieldPath(path, i), "a value may not be empty")
		}
	}
}

func (o *object) tokenPlaces(path string, j *security.JWTRule) {
	for i, h := range j.FromHeaders {
		if h == nil || h.Name == "" {
			o.fail(FieldPath(path+".fromHeaders", i), "a header needs a name")
			continue
		}
		o.headerName(FieldPath(path+".fromHeaders", i, "name"), h.Name)
	}
	o.noneEmpty(path+".fromParams", j.FromParams)
	o.noneEmpty(path+".fromCookies", j.FromCookies)
}

// framing are headers that say how a message is carried; a claim must not.
var framing = []string{"host", "connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}

// tokenOutputs: headers for the upstream. Each is set by one claim only, since
// what a request brings under that name is taken off.
func (o *object) tokenOutputs(path string, j *security.JWTRule) {
	seen := map[string]bool{}
	name := func(path, header string) {
		o.headerName(path, header)
		lower := strings.ToLower(header)
		if slices.Contains(framing, lower) {
			o.fail(path, fmt.Sprintf("header %q is the connection's, not the request's", header))
		}
		if seen[lower] {
			o.fail(path, fmt.Sprintf("header %q is set twice", header))
		}
		seen[lower] = true
	}
	if j.OutputPayloadToHeader != "" {
		name(path+".outputPayloadToHeader", j.OutputPayloadToHeader)
	}
	for i, c := range j.OutputClaimToHeaders {
		sub := FieldPath(path+".outputClaimToHeaders", i)
		if c == nil || c.Header == "" || c.Claim == "" {
			o.fail(sub, "header and claim are needed")
			continue
		}
		name(sub+".header", c.Header)
	}
	o.noneEmpty(path+".spaceDelimitedClaims", j.SpaceDelimitedClaims)
	if len(j.SpaceDelimitedClaims) > maxSpaceDelimited {
		o.fail(path+".spaceDelimitedClaims", fmt.Sprintf("more than %d claims", maxSpaceDelimited))
	}
}

// KeySource is where the keys of a rule without jwks are published.
func KeySource(j *security.JWTRule) jwks.Source {
	s := jwks.Source{URL: j.JwksUri, Timeout: j.Timeout.AsDuration()}
	if s.URL == "" {
		s.Issuer = j.Issuer
	}
	return s
}

// claimPrefix begins the names of headers that mean a claim.
const claimPrefix = "@request.auth.claims"

// RoutingClaim is the claim that a header of a match block means (VS31):
// @request.auth.claims.a.b or @request.auth.claims[a][b]; nil for a header.
func RoutingClaim(name string) []string {
	if len(name) < len(claimPrefix) || !strings.EqualFold(name[:len(claimPrefix)], claimPrefix) {
		return nil
	}
	rest := name[len(claimPrefix):]
	switch {
	case len(rest) > 1 && rest[0] == '.':
		return strings.Split(rest[1:], ".")
	case len(rest) > 2 && rest[0] == '[' && rest[len(rest)-1] == ']':
		return strings.Split(rest[1:len(rest)-1], "][")
	}
	return nil
}

// claimName checks a name that begins with "@", which no header has.
func (o *object) claimName(path, name string) {
	parts := RoutingClaim(name)
	bad := parts == nil
	for _, p := range parts {
		bad = bad || p == "" || strings.ContainsAny(p, "[]")
	}
	if bad {
		o.fail(path, fmt.Sprintf("%q is neither a header nor a claim", name), "write @request.auth.claims.NAME or @request.auth.claims[NAME][NAME]")
	}
}

// claimsNeedGateway: only gateways choose routes by claims (Istio).
func (o *object) claimsNeedGateway(vs *networking.VirtualService) {
	for _, g := range vs.Gateways {
		if g != "mesh" {
			return
		}
	}
	if len(vs.Hosts) == 0 {
		return // a delegate: the root says where
	}
	for i, r := range vs.Http {
		for j, m := range r.Match {
			for field, headers := range map[string]map[string]*networking.StringMatch{"headers": m.GetHeaders(), "withoutHeaders": m.GetWithoutHeaders()} {
				for _, name := range sortedKeys(headers) {
					if strings.HasPrefix(name, "@") {
						o.fail(FieldPath("spec.http", i, "match", j)+"."+field+"."+name, "sidecars do not route by claims, as in Istio", "bind the VirtualService to a gateway")
					}
				}
			}
		}
	}
}
