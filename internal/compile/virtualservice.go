package compile

import (
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// virtualServiceFor finds the VirtualService that sidecars use for a host: the
// most specific host, the oldest of equals; sidecars never merge (VS5).
func (b *builder) virtualServiceFor(host string) *resource.VirtualService {
	var best *resource.VirtualService
	rank := -1
	for _, vs := range b.set.VirtualServices {
		if !boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) || !visible(vs.Spec.ExportTo, vs.Namespace, b.node.Namespace) {
			continue
		}
		for i, h := range vs.Spec.Hosts {
			if h = fqdn(h, vs.Namespace); !hostMatches(h, host) {
				continue
			}
			switch s := specificity(h); {
			case s > rank:
				best, rank = vs, s
			case s == rank && best != vs && h == host:
				b.report(resource.Warning, &vs.Meta, at("spec.hosts", i), "sidecars use "+best.Origin().String()+" for "+host+"; they do not merge VirtualServices", "put the routes into one VirtualService")
			}
		}
	}
	return best
}

// boundTo reports whether gateways (default: mesh) name one, as "name" in the
// VirtualService's namespace or "ns/name".
func boundTo(gateways []string, want, namespace string) bool {
	if len(gateways) == 0 {
		return want == "mesh"
	}
	for _, g := range gateways {
		if g == want {
			return true
		}
		if g != "mesh" && !strings.Contains(g, "/") && namespace+"/"+g == want {
			return true
		}
	}
	return false
}

// extraHosts are virtual hosts for hosts of VirtualServices that are no
// services.
func (b *builder) extraHosts(port uint16) []*ir.VirtualHost {
	var out []*ir.VirtualHost
	for _, vs := range b.set.VirtualServices {
		if len(vs.Spec.Http) == 0 || !boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) || !visible(vs.Spec.ExportTo, vs.Namespace, b.node.Namespace) {
			continue
		}
		for _, h := range vs.Spec.Hosts {
			host := fqdn(h, vs.Namespace)
			if b.byHost[host] != nil || host == "*" {
				continue
			}
			routes, applied := b.httpRoutes(vs, port, "mesh")
			if !applied {
				continue
			}
			domains := []string{host}
			if h != host {
				domains = append(domains, h)
			}
			out = append(out, &ir.VirtualHost{Name: host + ":" + itoa(int(port)), Domains: domains, Routes: routes, Origin: vs.Origin()})
		}
	}
	return out
}

// httpRoutes compiles http[] for one port, seen from a gateway ("mesh" for
// sidecars). Each match block becomes a route; a rule without matches ends
// the list. applied is false when no block is meant for this proxy and port:
// Istio then does as if the VirtualService were not there.
func (b *builder) httpRoutes(vs *resource.VirtualService, port uint16, gateway string) (out []*ir.Route, applied bool) {
	for i, h := range vs.Spec.Http {
		path := at("spec.http", i)
		if len(h.Match) == 0 {
			applied = true
			if r := b.httpRoute(vs, h, path, ir.RouteMatch{Origin: vs.At(path)}, h.Name, port); r != nil {
				out = append(out, r)
			}
			break // nothing below can be reached
		}
		for j, m := range h.Match {
			if !b.applies(vs, m, port, gateway) {
				continue
			}
			applied = true
			name := h.Name
			if m.Name != "" {
				name = strings.TrimPrefix(name+"."+m.Name, ".")
			}
			match := compileMatch(m)
			match.Origin = vs.At(at(path+".match", j))
			if r := b.httpRoute(vs, h, path, match, name, port); r != nil {
				out = append(out, r)
			}
		}
	}
	return out, applied
}

// applies evaluates what a match says of the proxy rather than the request.
func (b *builder) applies(vs *resource.VirtualService, m *networking.HTTPMatchRequest, port uint16, gateway string) bool {
	return (m.Port == 0 || m.Port == uint32(port)) && subset(m.SourceLabels, b.node.Labels) &&
		(m.SourceNamespace == "" || m.SourceNamespace == b.node.Namespace) &&
		(len(m.Gateways) == 0 || boundTo(m.Gateways, gateway, vs.Namespace))
}

func compileMatch(m *networking.HTTPMatchRequest) ir.RouteMatch {
	var out ir.RouteMatch
	if m.Uri != nil {
		p := stringMatch(m.Uri)
		p.IgnoreCase = m.IgnoreUriCase && p.Kind != ir.Regex
		out.Path = &p
	}
	header := func(name string, sm *networking.StringMatch) {
		if sm != nil {
			out.Headers = append(out.Headers, ir.HeaderMatch{Name: name, Value: stringMatch(sm)})
		}
	}
	header(":method", m.Method)
	header(":scheme", m.Scheme)
	header(":authority", m.Authority)
	for _, name := range sortedKeys(m.Headers) {
		switch name {
		case "uri", "scheme", "method", "authority": // ignored by Istio (VS25)
		default:
			header(strings.ToLower(name), m.Headers[name])
		}
	}
	for _, name := range sortedKeys(m.WithoutHeaders) {
		v := stringMatch(m.WithoutHeaders[name])
		if v.Kind == ir.Regex && v.Value == "*" {
			v = ir.Match{Kind: ir.Present}
		}
		out.Headers = append(out.Headers, ir.HeaderMatch{Name: strings.ToLower(name), Value: v, Invert: true, TreatMissingAsEmpty: v.Kind != ir.Present})
	}
	for _, name := range sortedKeys(m.QueryParams) {
		out.Query = append(out.Query, ir.QueryMatch{Name: name, Value: stringMatch(m.QueryParams[name])})
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// stringMatch: an empty one tests for presence.
func stringMatch(m *networking.StringMatch) ir.Match {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return ir.Match{Kind: ir.Exact, Value: t.Exact}
	case *networking.StringMatch_Prefix:
		return ir.Match{Kind: ir.Prefix, Value: t.Prefix}
	case *networking.StringMatch_Regex:
		return ir.Match{Kind: ir.Regex, Value: t.Regex}
	}
	return ir.Match{Kind: ir.Present}
}

// httpRoute compiles what is done with a matched request. nil: the route
// would do what is not supported yet; checkSupport has said so, and it is left
// out rather than done halfway.
func (b *builder) httpRoute(vs *resource.VirtualService, h *networking.HTTPRoute, path string, match ir.RouteMatch, name string, port uint16) *ir.Route {
	r := &ir.Route{Name: name, Match: match, Origin: vs.At(path)}
	r.Request, r.Response = headerOps(h.Headers)
	host := takeHost(&r.Request)
	switch {
	case h.Delegate != nil:
		return nil
	case h.Redirect != nil:
		r.Redirect = redirect(h.Redirect)
	case h.DirectResponse != nil:
		r.Direct = &ir.DirectResponse{Status: int(h.DirectResponse.Status), Body: h.DirectResponse.GetBody().GetString_()}
		if raw := h.DirectResponse.GetBody().GetBytes(); raw != nil {
			r.Direct.Body = string(raw)
		}
	default:
		r.Forward = b.forward(vs, h, path, host, port)
	}
	return r
}

// forward compiles route[] and what goes with it. host: the authority that
// headers set for the whole route; it wins over a destination's.
func (b *builder) forward(vs *resource.VirtualService, h *networking.HTTPRoute, path, host string, port uint16) *ir.Forward {
	f := &ir.Forward{Timeout: dur(h.Timeout, 0), Retry: b.retry(vs, h.Retries, path)}
	for i, d := range h.Route {
		sub := at(path+".route", i)
		w := ir.WeightedCluster{Name: b.destination(vs, d.Destination, sub+".destination", port), Weight: uint32(d.Weight), Origin: vs.At(sub)}
		w.Request, w.Response = headerOps(d.Headers)
		if own := takeHost(&w.Request); own != "" && f.HostRewrite == "" {
			f.HostRewrite = own
		}
		if w.Weight == 0 && len(h.Route) > 1 {
			continue
		}
		f.Clusters = append(f.Clusters, w)
	}
	if host != "" {
		f.HostRewrite = host
	}
	if rw := h.Rewrite; rw != nil {
		if rw.Authority != "" {
			f.HostRewrite = rw.Authority
		}
		if rw.Uri != "" {
			f.PrefixRewrite = rw.Uri
		}
		if x := rw.UriRegexRewrite; x != nil {
			f.RegexRewrite = &ir.RegexRewrite{Match: x.Match, Substitution: x.Rewrite}
		}
	}
	return f
}

// takeHost finds a Host among operations; route.go's proxies rewrite the
// authority instead of adding a second Host field.
func takeHost(ops *ir.HeaderOps) string {
	host := ""
	strip := func(list []ir.Header) []ir.Header {
		return slices.DeleteFunc(slices.Clone(list), func(h ir.Header) bool {
			if h.Name == "host" || h.Name == ":authority" {
				if host == "" { // set wins over add
					host = h.Value
				}
				return true
			}
			return false
		})
	}
	if len(ops.Set) > 0 {
		ops.Set = strip(ops.Set)
	}
	if len(ops.Add) > 0 {
		ops.Add = strip(ops.Add)
	}
	if len(ops.Set) == 0 {
		ops.Set = nil
	}
	if len(ops.Add) == 0 {
		ops.Add = nil
	}
	return host
}

// destination compiles a destination to its cluster. What is not there gets a
// cluster name nobody has, so that requests are answered 503 NC instead of
// going elsewhere.
func (b *builder) destination(vs *resource.VirtualService, d *networking.Destination, path string, port uint16) string {
	host := fqdn(d.GetHost(), vs.Namespace)
	s := b.byHost[host]
	number := uint16(d.GetPort().GetNumber())
	if s != nil && number == 0 {
		number = port
		if len(s.ports) == 1 {
			number = s.ports[0].number
		}
	}
	missing := clusterName("outbound", number, d.GetSubset(), host)
	if s == nil || !s.exportedTo(b.node.Namespace) {
		b.report(resource.Error, &vs.Meta, path+".host", "no service "+host, "requests to it are answered 503 (NC)")
		return missing
	}
	p := s.port(number)
	if p == nil {
		b.report(resource.Error, &vs.Meta, path+".port", "service "+host+" has no port "+itoa(int(number)), "name one of its ports")
		return missing
	}
	if d.Subset != "" {
		if b.ruleFor(s, b.node.Namespace).subset(d.Subset) == nil {
			b.report(resource.Error, &vs.Meta, path+".subset", "no DestinationRule for "+host+" defines the subset "+strconv.Quote(d.Subset), "requests to it are answered 503 (NC)")
			return missing
		}
	}
	return b.addCluster(s, p, d.Subset)
}

// defaultRetry is Istio's when nothing is said (VS43; MeshConfig may say).
func (b *builder) defaultRetry() *ir.RetryPolicy {
	if d := b.mesh.DefaultHttpRetryPolicy; d != nil {
		return retryPolicy(d)
	}
	return &ir.RetryPolicy{Attempts: 2, On: []string{"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"}, PreviousHosts: true, HostAttempts: 5}
}

func (b *builder) retry(vs *resource.VirtualService, r *networking.HTTPRetry, path string) *ir.RetryPolicy {
	if r == nil {
		return b.defaultRetry()
	}
	if r.Attempts == 0 {
		return nil
	}
	p := retryPolicy(r)
	p.Origin = vs.At(path + ".retries")
	return p
}

func retryPolicy(r *networking.HTTPRetry) *ir.RetryPolicy {
	if r.Attempts == 0 {
		return nil
	}
	p := &ir.RetryPolicy{Attempts: uint32(r.Attempts), PerTryTimeout: dur(r.PerTryTimeout, 0), Backoff: dur(r.Backoff, 0), PreviousHosts: true, HostAttempts: 5}
	if r.RetryIgnorePreviousHosts != nil && !r.RetryIgnorePreviousHosts.Value {
		p.PreviousHosts, p.HostAttempts = false, 0
	}
	if r.RetryOn == "" {
		p.On = []string{"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"}
		return p
	}
	for _, c := range strings.Split(r.RetryOn, ",") {
		c = strings.TrimSpace(c)
		if n, err := strconv.Atoi(c); err == nil {
			p.Codes = append(p.Codes, n)
		} else if c != "" {
			p.On = append(p.On, c)
		}
	}
	if len(p.Codes) > 0 && !slices.Contains(p.On, "retriable-status-codes") {
		p.On = append(p.On, "retriable-status-codes")
	}
	return p
}

func headerOps(h *networking.Headers) (request, response ir.HeaderOps) {
	one := func(o *networking.Headers_HeaderOperations) (out ir.HeaderOps) {
		for _, k := range sortedKeys(o.GetSet()) {
			out.Set = append(out.Set, ir.Header{Name: strings.ToLower(k), Value: o.Set[k]})
		}
		for _, k := range sortedKeys(o.GetAdd()) {
			out.Add = append(out.Add, ir.Header{Name: strings.ToLower(k), Value: o.Add[k]})
		}
		for _, k := range o.GetRemove() {
			out.Remove = append(out.Remove, strings.ToLower(k))
		}
		return out
	}
	return one(h.GetRequest()), one(h.GetResponse())
}

func redirect(r *networking.HTTPRedirect) *ir.Redirect {
	out := &ir.Redirect{Path: r.Uri, Prefix: r.PrefixRewrite, Host: r.Authority, Scheme: r.Scheme, Port: uint16(r.GetPort()), Code: int(r.RedirectCode)}
	if out.Code == 0 {
		out.Code = 301
	}
	return out
}

// tcpRoutes are the weighted clusters of a TCP service's VirtualService.
func (b *builder) tcpRoutes(s *service, p *servicePort) ([]ir.WeightedCluster, ir.Origin) {
	vs := b.virtualServiceFor(s.host)
	if vs == nil {
		return nil, ir.Origin{}
	}
	for i, r := range vs.Spec.Tcp {
		path := at("spec.tcp", i)
		ok := len(r.Match) == 0
		for _, m := range r.Match {
			ok = ok || (m.Port == 0 || m.Port == uint32(p.number)) && subset(m.SourceLabels, b.node.Labels) && (m.SourceNamespace == "" || m.SourceNamespace == b.node.Namespace)
		}
		if !ok {
			continue
		}
		var out []ir.WeightedCluster
		for j, d := range r.Route {
			sub := at(path+".route", j)
			out = append(out, ir.WeightedCluster{Name: b.destination(vs, d.Destination, sub+".destination", p.number), Weight: uint32(d.Weight), Origin: vs.At(sub)})
		}
		return out, vs.At(path)
	}
	return nil, ir.Origin{}
}
