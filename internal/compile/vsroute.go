package compile

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// httpRoute compiles what is done with a matched request.
func (b *builder) httpRoute(rule *httpRule, match ir.RouteMatch, name string, port uint16, gateway string) *ir.Route {
	r := &ir.Route{Name: name, Match: match, Fault: b.fault(rule), CORS: b.cors(rule)}
	r.Origin, r.Root = rule.origins()
	vs, path := rule.owner("headers")
	r.Request, r.Response = b.headerOps(rule.Headers, vs, path)
	host := takeHost(&r.Request, rule.GetHeaders().GetRequest())
	takeHost(&r.Response, nil)
	switch {
	case rule.Redirect != nil:
		r.Redirect = redirect(rule.Redirect, port, b.gatewayTLS(gateway, port))
	case rule.DirectResponse != nil:
		r.Direct = directResponse(rule.DirectResponse)
	default:
		r.Forward = b.forward(rule, r, host, port)
	}
	return r
}

func directResponse(d *networking.HTTPDirectResponse) *ir.DirectResponse {
	out := &ir.DirectResponse{Status: int(d.Status), Body: d.GetBody().GetString_()}
	if raw := d.GetBody().GetBytes(); utf8.Valid(raw) {
		out.Body += string(raw)
	} else {
		out.Bytes = raw
	}
	return out
}

// forward compiles route[] and what goes with it. host: the authority that
// headers set for the whole rule; it wins over a destination's, and rewrite
// wins over both.
func (b *builder) forward(rule *httpRule, r *ir.Route, host string, port uint16) *ir.Forward {
	f := &ir.Forward{Timeout: dur(rule.Timeout, 0), Retry: b.retry(rule), HostRewrite: host, Mirrors: b.mirrors(rule, port)}
	for i, d := range rule.Route {
		sub := at(rule.path+".route", i)
		w := ir.WeightedCluster{Name: b.destination(rule.vs, d.Destination, sub+".destination", port), Weight: uint32(d.Weight), Origin: rule.vs.At(sub)}
		w.Request, w.Response = b.headerOps(d.Headers, rule.vs, sub+".headers")
		w.HostRewrite = takeHost(&w.Request, d.GetHeaders().GetRequest())
		takeHost(&w.Response, nil)
		if w.Weight == 0 && len(rule.Route) > 1 {
			continue
		}
		f.Clusters = append(f.Clusters, w)
	}
	if len(rule.Route) == 1 { // a single destination's operations follow the rule's
		w := &f.Clusters[0]
		r.Request, r.Response = joinOps(r.Request, w.Request), joinOps(r.Response, w.Response)
		if f.HostRewrite == "" {
			f.HostRewrite = w.HostRewrite
		}
		w.Request, w.Response, w.HostRewrite = ir.HeaderOps{}, ir.HeaderOps{}, ""
	}
	if rw := rule.Rewrite; rw != nil {
		f.AppendForwardedHost = b.appendForwardedHost()
		if rw.Authority != "" {
			f.HostRewrite = rw.Authority
		}
		if x := rw.UriRegexRewrite; x != nil {
			f.RegexRewrite = &ir.RegexRewrite{Match: x.Match, Substitution: x.Rewrite}
		} else {
			f.PrefixRewrite = rw.Uri
		}
	}
	return f
}

// joinOps appends b's operations to a's.
func joinOps(a, b ir.HeaderOps) ir.HeaderOps {
	return ir.HeaderOps{Set: slices.Concat(a.Set, b.Set), Add: slices.Concat(a.Add, b.Add), Remove: slices.Concat(a.Remove, b.Remove)}
}

// appendForwardedHost is VS38: ProxyConfig's proxyHeaders.xForwardedHost. Istio
// applies it to rules with a rewrite only.
func (b *builder) appendForwardedHost() bool {
	return b.proxy.GetProxyHeaders().GetXForwardedHost().GetEnabled().GetValue()
}

// takeHost takes the pseudo headers and Host out of operations: Envoy does not
// let them be changed that way. A Host or :authority that was set rewrites the
// authority; set wins over add.
func takeHost(ops *ir.HeaderOps, from *networking.Headers_HeaderOperations) (host string) {
	for _, m := range []map[string]string{from.GetAdd(), from.GetSet()} {
		for _, k := range sortedKeys(m) {
			if strings.EqualFold(k, "host") || strings.EqualFold(k, ":authority") {
				host = m[k]
			}
		}
	}
	internal := func(name string) bool { return name == "host" || strings.HasPrefix(name, ":") }
	drop := func(h ir.Header) bool { return internal(h.Name) }
	ops.Set, ops.Add = slices.DeleteFunc(ops.Set, drop), slices.DeleteFunc(ops.Add, drop)
	ops.Remove = slices.DeleteFunc(ops.Remove, internal)
	if len(ops.Set) == 0 {
		ops.Set = nil
	}
	if len(ops.Add) == 0 {
		ops.Add = nil
	}
	if len(ops.Remove) == 0 {
		ops.Remove = nil
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
	if number == 0 {
		number = port
		if s != nil && len(s.ports) == 1 {
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

// headerOps compiles operations on requests and responses (VS36). An operation
// whose value holds an operator we do not know is left out and reported: what
// would be sent instead is not what was meant.
func (b *builder) headerOps(h *networking.Headers, vs *resource.VirtualService, path string) (request, response ir.HeaderOps) {
	one := func(o *networking.Headers_HeaderOperations, path string) (out ir.HeaderOps) {
		list := func(m map[string]string, path string) (list []ir.Header) {
			for _, k := range sortedKeys(m) {
				if err := ir.CheckFormat(m[k]); err != nil {
					b.report(resource.Error, &vs.Meta, path+"."+k, err.Error()+"; the operation is left out", "%% is a percent sign")
					continue
				}
				list = append(list, ir.Header{Name: strings.ToLower(k), Value: m[k]})
			}
			return list
		}
		out.Set, out.Add = list(o.GetSet(), path+".set"), list(o.GetAdd(), path+".add")
		for _, k := range o.GetRemove() {
			out.Remove = append(out.Remove, strings.ToLower(k))
		}
		return out
	}
	return one(h.GetRequest(), path+".request"), one(h.GetResponse(), path+".response")
}

// redirect compiles VS39. A derived port is the one the listener has, which is
// where the request came in; a scheme's own port is not written.
func redirect(r *networking.HTTPRedirect, port uint16, tls bool) *ir.Redirect {
	out := &ir.Redirect{Path: r.Uri, Prefix: r.PrefixRewrite, Host: r.Authority, Scheme: r.Scheme, Port: uint16(r.GetPort()), Code: int(r.RedirectCode)}
	if r.GetDerivePort() == networking.HTTPRedirect_FROM_REQUEST_PORT {
		out.Port = port
	}
	scheme := r.Scheme
	switch {
	case scheme != "":
	case tls:
		scheme = "https"
	default:
		scheme = "http"
	}
	if scheme == "http" && out.Port == 80 || scheme == "https" && out.Port == 443 {
		out.Port = 0
	}
	if out.Code == 0 {
		out.Code = 301
	}
	return out
}

// gatewayTLS reports whether a gateway's server on a port terminates TLS.
func (b *builder) gatewayTLS(gateway string, port uint16) bool {
	for _, g := range b.set.Gateways {
		if g.Namespace+"/"+g.Name != gateway {
			continue
		}
		for _, s := range g.Spec.Servers {
			if s.GetPort().GetNumber() == uint32(port) && strings.EqualFold(s.GetPort().GetProtocol(), "HTTPS") {
				return true
			}
		}
	}
	return false
}
