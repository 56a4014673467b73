package compile

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// wildcard is the address that stands for every address of the proxy. On a
// host with IPv6 it is "::", which takes IPv4 too.
func (b *builder) wildcard() netip.Addr {
	if b.reaches(netip.IPv6Unspecified()) {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// reaches reports whether the proxy has an address of the same family. One
// that says nothing of its addresses is taken for IPv4.
func (b *builder) reaches(a netip.Addr) bool {
	for _, ip := range b.node.IPs {
		if own, err := netip.ParseAddr(ip); err == nil && own.Unmap().Is4() == a.Unmap().Is4() {
			return true
		}
	}
	return len(b.node.IPs) == 0 && a.Is4()
}

// outbound compiles what a sidecar does with the connections of its workload.
func (b *builder) outbound() {
	b.addSpecial()
	b.out.Listeners = append(b.out.Listeners, &ir.Listener{
		Name: "virtualOutbound", Address: netip.AddrPortFrom(b.wildcard(), OutboundPort), Direction: ir.Outbound, Bind: true, UseOriginalDst: true,
		Default: &ir.FilterChain{Name: "virtualOutbound-catchall-tcp", TCP: b.unknownTCP()},
	})
	claimed := map[uint16]bool{}
	for _, e := range b.egress {
		if e.port != 0 {
			claimed[e.port] = true
			b.egressOn(e, e.port)
		}
	}
	for _, e := range b.egress {
		if e.port != 0 {
			continue
		}
		ports := map[uint16]bool{}
		for _, s := range e.services {
			for i := range s.ports {
				ports[s.ports[i].number] = true
			}
		}
		for _, p := range sortedPorts(ports) {
			if !claimed[p] { // a port of its own in the Sidecar hides it here
				b.egressOn(e, p)
			}
		}
	}
	b.out.Listeners = append(b.out.Listeners, b.listeners.finish(b)...)
}

func sortedPorts(set map[uint16]bool) []uint16 {
	ports := make([]uint16, 0, len(set))
	for p := range set {
		ports = append(ports, p)
	}
	slices.Sort(ports)
	return ports
}

// egressOn compiles one port of what an egress listener lets through: a
// listener for every address, and one on the wildcard for HTTP and for what
// has no address.
func (b *builder) egressOn(e *egress, port uint16) {
	told := e.port != 0 && e.protocol.isHTTP() // by the Sidecar, whatever the services say
	isHTTP := told
	for _, s := range e.services {
		p := s.port(port)
		if p == nil || b.shadowed(s, port) {
			continue
		}
		for _, protocol := range s.protocols(port, b.node.Namespace) {
			if protocol.isHTTP() || told {
				isHTTP = true
				continue
			}
			as := *p
			as.protocol = protocol
			b.opaque(e, s, &as)
		}
	}
	if !isHTTP {
		return
	}
	bind := netip.AddrPortFrom(b.wildcard(), port)
	table := itoa(int(port))
	if e.port != 0 {
		if bind = netip.AddrPortFrom(e.bind, port); !e.bind.IsUnspecified() {
			table = bind.String()
		}
	}
	l := b.listeners.at(bind, e)
	b.addChain(l, &ir.FilterChain{Name: l.Name, Match: ir.ChainMatch{Transport: ir.TransportRaw, ALPN: plainHTTP}, HTTP: b.http(table)}, nil)
	b.out.Routes = append(b.out.Routes, b.routeTable(e, port, table))
}

// shadowed: of services with one host, another one has this port for the proxy.
func (b *builder) shadowed(s *service, port uint16) bool {
	chosen := b.byHost[s.host]
	if chosen == s {
		return false
	}
	if chosen.port(port) != nil {
		return true
	}
	for _, other := range b.services { // the first of the rest
		if other.host == s.host && other.port(port) != nil {
			return other != s
		}
	}
	return false
}

// http is the HTTP connection manager of a sidecar's chain.
func (b *builder) http(table string) *ir.HTTP {
	return &ir.HTTP{StatPrefix: table, RouteTable: table, AccessLog: b.accessLog(), Upgrades: []string{"websocket"}, PathNormalization: b.pathNormalization()}
}

// unknownTCP is what happens to connections to addresses nobody declared.
func (b *builder) unknownTCP() *ir.TCPProxy {
	name := ir.PassthroughCluster
	if !b.allowAny() {
		name = ir.BlackHoleCluster
	}
	return &ir.TCPProxy{StatPrefix: name, Clusters: []ir.WeightedCluster{{Name: name}}, AccessLog: b.accessLog()}
}

// routeTable is the table of one HTTP port: a virtual host per service that
// has the port, those that VirtualServices add, and the catch-all.
func (b *builder) routeTable(e *egress, port uint16, name string) *ir.RouteTable {
	t := &ir.RouteTable{Name: name}
	taken := map[string]bool{}
	t.VirtualHosts = unclaimed(b.extraHosts(e, port), taken) // first, as in Istio: a VirtualService may claim a service's short form
	for _, s := range e.services {
		p := s.port(port)
		if p == nil || b.shadowed(s, port) || !s.newest(port, b.node.Namespace).isHTTP() && !(e.port != 0 && e.protocol.isHTTP()) {
			continue
		}
		t.VirtualHosts = append(t.VirtualHosts, unclaimed(b.serviceHosts(s, p), taken)...)
	}
	t.VirtualHosts = append(t.VirtualHosts, b.catchAll())
	return t
}

// unclaimed drops domains that an earlier virtual host has.
func unclaimed(hosts []*ir.VirtualHost, taken map[string]bool) []*ir.VirtualHost {
	var out []*ir.VirtualHost
	for _, h := range hosts {
		var mine []string
		for _, d := range h.Domains {
			if !taken[d] {
				taken[d] = true
				mine = append(mine, d)
			}
		}
		if len(mine) > 0 {
			h.Domains = mine
			out = append(out, h)
		}
	}
	return out
}

func (b *builder) catchAll() *ir.VirtualHost {
	if b.allowAny() {
		return &ir.VirtualHost{Name: "allow_any", Domains: []string{"*"}, Routes: []*ir.Route{{Name: "allow_any", Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: ir.PassthroughCluster}}}}}}
	}
	return &ir.VirtualHost{Name: "block_all", Domains: []string{"*"}, Routes: []*ir.Route{{Name: "block_all", Direct: &ir.DirectResponse{Status: 502}}}}
}

// serviceHosts is the virtual host of a service port: its VirtualService's
// routes, or the default route.
func (b *builder) serviceHosts(s *service, p *servicePort) []*ir.VirtualHost {
	vh := &ir.VirtualHost{Name: s.host + ":" + itoa(int(p.number)), Domains: s.domains(b.node.Namespace), Origin: s.Origin()}
	applied := false
	if vs := b.virtualServiceFor(s.host); vs != nil {
		if vh.Routes, applied = b.httpRoutes(vs, p.number, "mesh"); applied {
			vh.Origin = vs.Origin()
		}
	}
	if !applied {
		vh.Routes = []*ir.Route{{Name: "default", Origin: s.Origin(), Forward: &ir.Forward{
			Clusters: []ir.WeightedCluster{{Name: b.addCluster(s, s.port(p.number), ""), Origin: s.Origin()}}, Retry: b.defaultRetry()}}}
	}
	return []*ir.VirtualHost{vh}
}
