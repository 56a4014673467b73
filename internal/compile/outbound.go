package compile

import (
	"net/netip"
	"slices"
	"time"

	meshv1 "istio.io/api/mesh/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ir"
)

var wildcard = netip.IPv4Unspecified()

const inspectTimeout = ir.Duration(5 * time.Second)

// outbound compiles what a sidecar does with the connections of its workload.
func (b *builder) outbound() {
	b.addSpecial()
	b.out.Listeners = append(b.out.Listeners, &ir.Listener{
		Name: "virtualOutbound", Address: netip.AddrPortFrom(wildcard, OutboundPort), Direction: ir.Outbound, Bind: true, UseOriginalDst: true,
		Default: &ir.FilterChain{Name: "virtualOutbound-catchall-tcp", TCP: b.unknownTCP()},
	})
	httpPorts := map[uint16]bool{}
	for _, s := range b.services {
		if !s.exportedTo(b.node.Namespace) {
			continue
		}
		for i := range s.ports {
			p := &s.ports[i]
			if p.protocol == protoTCP || p.protocol == protoAuto {
				b.tcpListener(s, p)
			}
			if p.protocol == protoHTTP {
				httpPorts[p.number] = true
			}
		}
	}
	ports := make([]uint16, 0, len(httpPorts))
	for p := range httpPorts {
		ports = append(ports, p)
	}
	slices.Sort(ports)
	for _, p := range ports {
		b.out.Listeners = append(b.out.Listeners, b.httpListener(p))
		b.out.Routes = append(b.out.Routes, b.routeTable(p))
	}
}

// httpListener takes every connection to one HTTP port, whatever the address.
// What does not speak HTTP (TLS to a host outside the mesh, say) goes where it
// was meant to go, as connections to unknown ports do.
func (b *builder) httpListener(port uint16) *ir.Listener {
	name := "0.0.0.0_" + itoa(int(port))
	return &ir.Listener{
		Name: name, Address: netip.AddrPortFrom(wildcard, port), Direction: ir.Outbound,
		InspectTLS: true, InspectHTTP: true, InspectTimeout: inspectTimeout, ContinueOnInspectTimeout: true,
		Chains:  []*ir.FilterChain{{Name: name, Match: ir.ChainMatch{Transport: ir.TransportRaw, ALPN: cleartextHTTP}, HTTP: b.http(itoa(int(port)))}},
		Default: &ir.FilterChain{Name: "PassthroughFilterChain", TCP: b.unknownTCP()},
	}
}

// cleartextHTTP is what sniffing calls HTTP without TLS.
var cleartextHTTP = []string{"http/1.1", "h2c"}

// http is the HTTP connection manager of a sidecar's chain.
func (b *builder) http(table string) *ir.HTTP {
	return &ir.HTTP{StatPrefix: table, RouteTable: table, AccessLog: b.accessLog(), Upgrades: []string{"websocket"}, PathNormalization: b.pathNormalization()}
}

func (b *builder) allowAny() bool {
	return b.mesh.GetOutboundTrafficPolicy().GetMode() != meshv1.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
}

// unknownTCP is what happens to connections to addresses nobody declared.
func (b *builder) unknownTCP() *ir.TCPProxy {
	name := ir.PassthroughCluster
	if !b.allowAny() {
		name = ir.BlackHoleCluster
	}
	return &ir.TCPProxy{StatPrefix: name, Clusters: []ir.WeightedCluster{{Name: name}}, AccessLog: b.accessLog()}
}

// tcpListener receives connections to one service port's address. A port of
// unknown protocol gets an HTTP chain too, chosen by what the first bytes say.
func (b *builder) tcpListener(s *service, p *servicePort) {
	addr := s.vip
	if !addr.IsValid() {
		if !s.headless {
			return // no address yet
		}
		addr = wildcard
	}
	name := addr.String() + "_" + itoa(int(p.number))
	for _, l := range b.out.Listeners {
		if l.Name == name {
			return // two headless services on one port: the oldest has it
		}
	}
	l := &ir.Listener{Name: name, Address: netip.AddrPortFrom(addr, p.number), Direction: ir.Outbound, Origin: s.Origin()}
	var rest bool
	if l.Chains, rest = b.l4Chains(s, p); p.tls && len(l.Chains) > 0 {
		l.InspectTLS, l.InspectTimeout, l.ContinueOnInspectTimeout = true, inspectTimeout, true
	}
	if rest {
		l.Chains = append(l.Chains, &ir.FilterChain{Name: name, Origin: s.Origin(), TCP: &ir.TCPProxy{
			StatPrefix: s.host, AccessLog: b.accessLog(), Clusters: []ir.WeightedCluster{{Name: b.addCluster(s, p, "")}}}})
	}
	if p.protocol == protoAuto {
		if last := len(l.Chains) - 1; last >= 0 && sameMatch(l.Chains[last].Match, ir.ChainMatch{}) {
			l.Default, l.Chains = l.Chains[last], l.Chains[:last]
		}
		l.InspectTLS, l.InspectHTTP, l.InspectTimeout, l.ContinueOnInspectTimeout = true, true, inspectTimeout, true
		table := s.host + ":" + itoa(int(p.number))
		l.Chains = append(l.Chains, &ir.FilterChain{Name: name + "_http", Match: ir.ChainMatch{Transport: ir.TransportRaw, ALPN: []string{"http/1.1"}}, HTTP: b.http(table)})
		b.out.Routes = append(b.out.Routes, &ir.RouteTable{Name: table, VirtualHosts: append(b.serviceHosts(s, p), b.catchAll())})
	}
	b.out.Listeners = append(b.out.Listeners, l)
}

// routeTable is the table of one HTTP port: a virtual host per service that
// has the port, those that VirtualServices add, and the catch-all.
func (b *builder) routeTable(port uint16) *ir.RouteTable {
	t := &ir.RouteTable{Name: itoa(int(port))}
	taken := map[string]bool{}
	t.VirtualHosts = unclaimed(b.extraHosts(port), taken) // first, as in Istio: a VirtualService may claim a service's short form
	for _, s := range b.services {
		p := s.port(port)
		if p == nil || p.protocol != protoHTTP || !s.exportedTo(b.node.Namespace) {
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
			Clusters: []ir.WeightedCluster{{Name: b.addCluster(s, p, ""), Origin: s.Origin()}}, Retry: b.defaultRetry()}}}
	}
	return []*ir.VirtualHost{vh}
}
