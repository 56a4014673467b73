package resource

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// FieldPath joins names and indices: ("spec.http", 0, "route", 1) is
// spec.http[0].route[1].
func FieldPath(parts ...any) string {
	var b strings.Builder
	for i, p := range parts {
		switch p := p.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", p)
		case string:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(p)
		}
	}
	return b.String()
}

var hostPattern = regexp.MustCompile(`^(\*|(\*\.)?[a-z0-9]([-a-z0-9_]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9_]*[a-z0-9])?)*)$`)

// host checks a host name with an optional wildcard as its first label.
func (o *object) host(path, h string) {
	if h == "" {
		o.fail(path, "a host is needed")
		return
	}
	if _, err := netip.ParseAddr(h); err == nil {
		return
	}
	if len(h) > 253 || !hostPattern.MatchString(h) {
		o.fail(path, fmt.Sprintf("%q is not a host name", h), "lower case letters, digits, '-' and '.', '*' only as the first label")
	}
}

func (o *object) regex(path, expr string) {
	if _, err := regexp.Compile(expr); err != nil {
		o.fail(path, err.Error(), "regular expressions are RE2, and match the whole string")
	}
}

func (o *object) stringMatch(path string, m *networking.StringMatch) {
	if m == nil {
		return
	}
	if r, ok := m.MatchType.(*networking.StringMatch_Regex); ok {
		o.regex(path+".regex", r.Regex)
	}
}

func (o *object) portNumber(path string, n uint32) {
	if n == 0 || n > 65535 {
		o.fail(path, fmt.Sprintf("%d is not a port (1 to 65535)", n))
	}
}

func validateVirtualService(o *object, vs *networking.VirtualService) {
	if len(vs.Hosts) == 0 && len(vs.Http) == 0 {
		o.fail("spec.hosts", "at least one host is needed")
	}
	for i, h := range vs.Hosts {
		o.host(FieldPath("spec.hosts", i), h)
		if h == "*" && (len(vs.Gateways) == 0 || slices.Contains(vs.Gateways, "mesh")) {
			o.fail(FieldPath("spec.hosts", i), "the host * is not allowed for sidecars (gateway \"mesh\")", "bind the VirtualService to gateways only, or name the hosts")
		}
	}
	if len(vs.Http)+len(vs.Tcp)+len(vs.Tls) == 0 {
		o.fail("spec", "one of http, tls and tcp is needed")
	}
	for i, r := range vs.Http {
		o.httpRoute(FieldPath("spec.http", i), r)
	}
	o.delegation(vs)
	o.claimsNeedGateway(vs)
	for i, r := range vs.Tcp {
		o.tcpRoute(FieldPath("spec.tcp", i), r)
	}
	for i, r := range vs.Tls {
		o.tlsRoute(FieldPath("spec.tls", i), r, vs.Hosts)
	}
}

func (o *object) httpRoute(path string, r *networking.HTTPRoute) {
	n := 0
	for _, set := range []bool{len(r.Route) > 0, r.Redirect != nil, r.DirectResponse != nil, r.Delegate != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		o.fail(path, "exactly one of route, redirect, directResponse and delegate is needed")
	}
	for i, m := range r.Match {
		o.httpMatch(FieldPath(path+".match", i), m)
	}
	var sum int32
	for i, d := range r.Route {
		o.destination(FieldPath(path+".route", i, "destination"), d.Destination)
		o.weight(FieldPath(path+".route", i, "weight"), d.Weight)
		o.headers(FieldPath(path+".route", i, "headers"), d.Headers)
		sum += d.Weight
	}
	if len(r.Route) > 1 && sum == 0 {
		o.fail(path+".route", "the weights add up to 0: no destination would get a request")
	}
	if r.Retries != nil {
		o.retries(path+".retries", r.Retries)
		if t, p := r.Timeout, r.Retries.PerTryTimeout; t != nil && p != nil && t.AsDuration() > 0 && p.AsDuration() > t.AsDuration() {
			o.warn(path+".retries.perTryTimeout", fmt.Sprintf("%s is longer than the route's timeout of %s: the timeout ends the first try, and no retry follows", p.AsDuration(), t.AsDuration()))
		}
	}
	if r.Timeout.AsDuration() != 0 { // 0s is in people's files and means none, though Istio's webhook refuses it
		o.duration(path+".timeout", r.Timeout)
	}
	o.redirect(path+".redirect", r)
	o.directResponse(path+".directResponse", r.DirectResponse)
	o.rewrite(path+".rewrite", r)
	o.fault(path+".fault", r.Fault, r.Redirect != nil || r.DirectResponse != nil)
	o.mirrors(path, r)
	o.cors(path+".corsPolicy", r.CorsPolicy)
	o.headers(path+".headers", r.Headers)
	o.authority(path, r)
}

func (o *object) httpMatch(path string, m *networking.HTTPMatchRequest) {
	for name, sm := range map[string]*networking.StringMatch{"uri": m.Uri, "scheme": m.Scheme, "method": m.Method, "authority": m.Authority} {
		o.stringMatch(path+"."+name, sm)
	}
	for _, name := range sortedKeys(m.Headers) {
		o.headerName(path+".headers."+name, name)
		o.stringMatch(path+".headers."+name, m.Headers[name])
	}
	for _, name := range sortedKeys(m.WithoutHeaders) {
		o.headerName(path+".withoutHeaders."+name, name)
		if m.WithoutHeaders[name].GetRegex() != "*" { // there "*" means presence (VS25)
			o.stringMatch(path+".withoutHeaders."+name, m.WithoutHeaders[name])
		}
	}
	for _, name := range sortedKeys(m.QueryParams) {
		o.stringMatch(path+".queryParams."+name, m.QueryParams[name])
	}
	if m.Port > 65535 {
		o.portNumber(path+".port", m.Port)
	}
}

func (o *object) headerName(path, name string) {
	if strings.HasPrefix(name, "@") {
		o.claimName(path, name)
		return
	}
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~@[]") != "" {
		o.fail(path, fmt.Sprintf("%q is not a header name", name))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (o *object) destination(path string, d *networking.Destination) {
	if d == nil {
		o.fail(path, "a destination is needed")
		return
	}
	o.host(path+".host", d.Host)
	if d.Port != nil {
		o.portNumber(path+".port.number", d.Port.Number)
	}
}

func (o *object) weight(path string, w int32) {
	if w < 0 {
		o.fail(path, "a weight may not be negative")
	}
}

// retryConditions are Envoy's for HTTP and gRPC; numbers are status codes.
var retryConditions = []string{"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx",
	"refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}

func (o *object) retries(path string, r *networking.HTTPRetry) {
	o.duration(path+".perTryTimeout", r.PerTryTimeout)
	o.duration(path+".backoff", r.Backoff)
	if r.Attempts < 0 {
		o.fail(path+".attempts", "may not be negative")
	}
	if r.Attempts == 0 && (r.RetryOn != "" || r.PerTryTimeout != nil) {
		o.fail(path+".attempts", "attempts is 0, so retryOn and perTryTimeout have no effect", "set attempts, or remove them")
	}
	for _, c := range strings.Split(r.RetryOn, ",") {
		c = strings.TrimSpace(c)
		if c == "" || slices.Contains(retryConditions, c) {
			continue
		}
		if n, err := strconv.Atoi(c); err == nil && n >= 100 && n <= 599 {
			continue
		}
		o.fail(path+".retryOn", fmt.Sprintf("%q is not a retry condition", c), didYouMean(c, retryConditions))
	}
}

func validateGateway(o *object, g *networking.Gateway) {
	if len(g.Servers) == 0 {
		o.fail("spec.servers", "at least one server is needed")
	}
	for i, s := range g.Servers {
		path := FieldPath("spec.servers", i)
		if s.Port == nil {
			o.fail(path+".port", "a port is needed")
			continue
		}
		o.portNumber(path+".port.number", s.Port.Number)
		if s.Port.Name == "" {
			o.fail(path+".port.name", "a name is needed")
		}
		if len(s.Hosts) == 0 {
			o.fail(path+".hosts", "at least one host is needed")
		}
		protocol := strings.ToUpper(s.Port.Protocol)
		if !slices.Contains([]string{"HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS"}, protocol) {
			o.fail(path+".port.protocol", fmt.Sprintf("%q is not a protocol", s.Port.Protocol), "HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS")
		}
		switch {
		case (protocol == "HTTPS" || protocol == "TLS") && s.Tls == nil:
			o.fail(path+".tls", "protocol "+protocol+" needs tls")
		case protocol == "HTTP" && s.Tls != nil && !s.Tls.HttpsRedirect:
			o.fail(path+".tls", "protocol HTTP takes only tls.httpsRedirect")
		case s.Tls != nil && (s.Tls.Mode == networking.ServerTLSSettings_SIMPLE || s.Tls.Mode == networking.ServerTLSSettings_MUTUAL) && protocol != "HTTP" &&
			s.Tls.CredentialName == "" && len(s.Tls.CredentialNames) == 0 && s.Tls.ServerCertificate == "" && len(s.Tls.TlsCertificates) == 0:
			o.fail(path+".tls", "a certificate is needed", "credentialName names a Secret with tls.crt and tls.key")
		}
	}
}
