package compile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// tcpServers adds the chains of plain TCP servers. Nothing tells their
// connections apart but the destination address.
func (b *builder) tcpServers(l *ir.Listener, servers []*server) {
	for _, s := range servers {
		for _, c := range b.serverTCP(s) {
			if have := slices.IndexFunc(l.Chains, func(h *ir.FilterChain) bool { return sameMatch(h.Match, c.Match) }); have >= 0 {
				b.report(resource.Error, &s.gw.Meta, s.path(), "connections to this port go to "+l.Chains[have].Origin.String()+"; this server's are not in force (IST0145)", "use another port")
				continue
			}
			l.Chains = append(l.Chains, c)
		}
	}
}

// serverTCP are the chains that the tcp routes of the server's VirtualServices
// make; hosts play no role but to bind the two.
func (b *builder) serverTCP(s *server) []*ir.FilterChain {
	gw := s.gw.Namespace + "/" + s.gw.Name
	var out []*ir.FilterChain
	for _, vs := range b.boundServices(s) {
		for _, c := range b.tcpRoutes(vs, gw, uint16(s.Port.Number), netip.Addr{}) {
			c.Filters = b.filters(false)
			out = append(out, c)
			if len(c.Match.Prefixes) == 0 {
				return out
			}
		}
	}
	if len(out) == 0 {
		b.report(resource.Warning, &s.gw.Meta, s.path(), "no VirtualService with tcp routes is bound to this server; its connections are closed", "")
	}
	return out
}

// boundServices are the VirtualServices bound to the server's Gateway with a
// host in common.
func (b *builder) boundServices(s *server) []*resource.VirtualService {
	gw := s.gw.Namespace + "/" + s.gw.Name
	var out []*resource.VirtualService
	for _, vs := range b.set.VirtualServices {
		if boundTo(vs.Spec.Gateways, gw, vs.Namespace) && b.virtualServiceVisible(vs, b.node.Namespace) &&
			slices.ContainsFunc(vs.Spec.Hosts, func(h string) bool { return len(intersect(s.Hosts, h, vs.Namespace, s.gw.Namespace)) > 0 }) {
			out = append(out, vs)
		}
	}
	return out
}

// passthrough forwards TLS as it is, by server name, as the tls routes say.
func (b *builder) passthrough(l *ir.Listener, s *server) {
	gw := s.gw.Namespace + "/" + s.gw.Name
	found := false
	for _, vs := range b.boundServices(s) {
		for _, c := range b.tlsRoutes(vs, gw, uint16(s.Port.Number), netip.Addr{}) {
			var names []string
			for _, n := range c.Match.ServerNames {
				names = append(names, intersect(s.Hosts, n, vs.Namespace, s.gw.Namespace)...)
			}
			names = slices.DeleteFunc(names, func(n string) bool { return len(c.Match.Prefixes) == 0 && chainFor(l, n) != nil })
			if len(c.Match.ServerNames) > 0 && len(names) == 0 {
				continue // not a host of the server, or an older rule has it
			}
			c.Match.ServerNames = names
			c.Filters = b.filters(false)
			l.Chains = append(l.Chains, c)
			found = true
		}
	}
	if !found {
		b.report(resource.Warning, &s.gw.Meta, s.path(), "no VirtualService with tls routes for these hosts is bound to this server; its connections are closed", "")
	}
}

// autoPassthrough forwards the mesh's own mutual TLS, unopened, to the service
// that its server name spells out (outbound_.PORT_.SUBSET_.HOST): how a mesh in
// another network comes in. Only TLS that offers the mesh's protocols is taken.
func (b *builder) autoPassthrough(l *ir.Listener, s *server) {
	for _, svc := range b.services {
		if svc.external || !slices.ContainsFunc(s.Hosts, func(h string) bool { return hostMatches(serverHost(h), svc.host) }) {
			continue
		}
		for i := range svc.ports {
			p := &svc.ports[i]
			subsets := []string{""}
			if r := b.ruleFor(svc, b.node.Namespace); r != nil {
				for _, sub := range r.subsets {
					subsets = append(subsets, sub.Name)
				}
			}
			for _, sub := range subsets {
				b.autoChain(l, s, svc, p, sub)
			}
		}
	}
}

func (b *builder) autoChain(l *ir.Listener, s *server, svc *service, p *servicePort, subsetName string) {
	sni := strings.Join([]string{"outbound_", itoa(int(p.number)) + "_", subsetName + "_", svc.host}, ".")
	if chainFor(l, sni) != nil {
		return
	}
	l.Chains = append(l.Chains, &ir.FilterChain{Name: sni, Origin: s.gw.At(s.path()), Filters: b.filters(false),
		Match: ir.ChainMatch{Transport: ir.TransportTLS, ServerNames: []string{sni}, ALPN: istioALPN},
		TCP:   &ir.TCPProxy{StatPrefix: sni, AccessLog: b.accessLog(), Clusters: []ir.WeightedCluster{{Name: b.sniCluster(svc, p, subsetName, sni)}}}})
}

// sniCluster is a service port's cluster without TLS of its own: the bytes are
// TLS already.
func (b *builder) sniCluster(s *service, p *servicePort, subsetName, name string) string {
	if b.clusters[name] {
		return name
	}
	b.clusters[name] = true
	var labels map[string]string
	c := &ir.Cluster{Name: name, Type: s.clusterOf, LB: ir.LeastRequest, Breaker: ir.DefaultBreaker(), ConnectTimeout: b.connectTimeout(),
		Service: ir.ServiceRef{Host: s.host, Name: s.shortName(), Namespace: s.Namespace, Port: p.number, Subset: subsetName}, Origin: s.Origin()}
	if r := b.ruleFor(s, b.node.Namespace); r != nil {
		if sub := r.subset(subsetName); sub != nil {
			labels, c.SubsetFrom = sub.Labels, sub.from.At(at("spec.subsets", sub.index))
		}
	}
	if c.Type = ir.EDS; s.clusterOf == ir.StrictDNS || s.clusterOf == ir.LogicalDNS {
		c.Type = s.clusterOf
	}
	endpoints := b.endpoints(c, s, p, labels, nil)
	if b.out.Clusters = append(b.out.Clusters, c); c.Type == ir.EDS {
		b.out.Endpoints = append(b.out.Endpoints, endpoints)
	} else {
		c.Endpoints, c.DNSRefresh = endpoints, b.dnsRefresh()
	}
	return name
}
