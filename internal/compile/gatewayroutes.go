package compile

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// serverHost is a server's host without its namespace, in lower case.
func serverHost(h string) string {
	if _, after, ok := strings.Cut(h, "/"); ok {
		h = after
	}
	return strings.ToLower(h)
}

// gatewayRoutes merges the VirtualServices bound to the servers' Gateways, host
// by host, in order of age (VS5).
func (b *builder) gatewayRoutes(name string, servers []*server) *ir.RouteTable {
	t := &ir.RouteTable{Name: name}
	hosts := map[string]*ir.VirtualHost{}
	redirect := map[string]*server{} // by host
	merged := map[string]bool{}
	for _, s := range servers {
		for _, vs := range b.set.VirtualServices {
			gw := s.gw.Namespace + "/" + s.gw.Name
			if !boundTo(vs.Spec.Gateways, gw, vs.Namespace) || len(vs.Spec.Http) == 0 || !b.virtualServiceVisible(vs, b.node.Namespace) {
				continue
			}
			for _, h := range vs.Spec.Hosts {
				h = fqdn(h, vs.Namespace) // X1: at a gateway too
				for _, host := range intersect(s.Hosts, h, vs.Namespace, s.gw.Namespace) {
					key := host + "\x00" + vs.Namespace + "/" + vs.Name
					if s.redirects() && hosts[host] != nil {
						redirect[host] = s
					}
					if merged[key] {
						continue
					}
					merged[key] = true
					routes, applied := b.httpRoutes(vs, uint16(s.Port.Number), gw)
					if !applied {
						continue
					}
					vh := hosts[host]
					if vh == nil {
						vh = gatewayHost(host, s, vs.Origin())
						hosts[host] = vh
						t.VirtualHosts = append(t.VirtualHosts, vh)
					}
					vh.Routes = append(vh.Routes, routes...)
					if s.redirects() {
						redirect[host] = s
					}
				}
			}
		}
	}
	for _, s := range servers { // also hosts that no VirtualService is bound to
		for _, h := range s.Hosts {
			if h = serverHost(h); s.redirects() && hosts[h] == nil {
				hosts[h] = gatewayHost(h, s, s.gw.At(s.path()))
				redirect[h] = s
				t.VirtualHosts = append(t.VirtualHosts, hosts[h])
			}
		}
	}
	for h, s := range redirect {
		hosts[h].Routes = b.redirecting(s, hosts[h].Routes)
	}
	if len(t.VirtualHosts) == 0 { // 404 for every host, and a place that says why
		s := servers[0]
		t.VirtualHosts = append(t.VirtualHosts, &ir.VirtualHost{Name: "blackhole:" + itoa(int(s.Port.Number)), Domains: []string{"*"}, Origin: s.gw.At(s.path())})
	}
	for _, vh := range t.VirtualHosts { // catch-alls of one VirtualService must not hide another's routes
		slices.SortStableFunc(vh.Routes, func(a, c *ir.Route) int { return catchAllRank(a) - catchAllRank(c) })
	}
	return t
}

func gatewayHost(host string, s *server, from ir.Origin) *ir.VirtualHost {
	return &ir.VirtualHost{Name: host + ":" + itoa(int(s.Port.Number)), Domains: []string{host}, Origin: from}
}

// redirects: a plain server that sends everything to https.
func (s *server) redirects() bool {
	return s.Tls.GetHttpsRedirect() && s.family() == plainServers
}

// redirecting puts the redirect before the routes of a host. Who came by https to
// a proxy in front gets past it, if that proxy is trusted to say so (Envoy's
// require_tls goes by x-forwarded-proto, too); else nobody does.
func (b *builder) redirecting(s *server, routes []*ir.Route) []*ir.Route {
	r := &ir.Route{Name: "https-redirect", Redirect: &ir.Redirect{HTTPS: true, Code: 301}, Origin: s.gw.At(s.path() + ".tls.httpsRedirect")}
	if b.proxy.GetGatewayTopology().GetNumTrustedProxies() == 0 {
		return []*ir.Route{r}
	}
	r.Match.Headers = []ir.HeaderMatch{{Name: "x-forwarded-proto", Value: ir.Match{Kind: ir.Exact, Value: "https"}, Invert: true, TreatMissingAsEmpty: true}}
	return append([]*ir.Route{r}, routes...)
}

func catchAllRank(r *ir.Route) int {
	m := r.Match
	if len(m.Headers)+len(m.Query)+len(m.Claims) == 0 && (m.Path == nil || m.Path.Kind == ir.Prefix && m.Path.Value == "/" || m.Path.Kind == ir.Regex && m.Path.Value == ".*") {
		return 1
	}
	return 0
}

// intersect are the hosts that a VirtualService host and a server's hosts have
// in common: of each pair the more specific. A server host may name the
// namespaces it takes ("ns/host", "./host", "*/host").
func intersect(serverHosts []string, host, vsNamespace, gwNamespace string) []string {
	var out []string
	for _, sh := range serverHosts {
		if ns, _, ok := strings.Cut(sh, "/"); ok && ns != "*" && ns != vsNamespace && !(ns == "." && vsNamespace == gwNamespace) {
			continue
		}
		sh = serverHost(sh)
		switch {
		case hostMatches(sh, host):
			sh = host
		case !hostMatches(host, sh):
			continue
		}
		if !slices.Contains(out, sh) {
			out = append(out, sh)
		}
	}
	return out
}
