package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// server is one server of a Gateway that selects this node.
type server struct {
	gw    *resource.Gateway
	index int
	*networking.Server
	bind netip.AddrPort // where the process behind the Gateway's port listens
}

func (s *server) path() string { return at("spec.servers", s.index) }

// family is what may share a port: requests in the clear, anything told apart
// by server name, or bytes.
type family int

const (
	plainServers family = iota
	tlsServers
	tcpServers
)

func (s *server) family() family {
	switch strings.ToUpper(s.Port.Protocol) {
	case "HTTP", "HTTP2", "GRPC", "GRPC-WEB":
		return plainServers
	case "HTTPS", "TLS":
		return tlsServers
	}
	return tcpServers // TCP, MONGO
}

// gateway compiles an ingress, egress or east-west gateway: one listener per
// port. Its Gateways are merged: all plain HTTP servers of a port into one
// route table, servers with TLS by server name.
func (b *builder) gateway() {
	b.addSpecial()
	byAddress := map[netip.AddrPort][]*server{}
	for _, g := range b.set.Gateways {
		if !subset(g.Spec.Selector, b.node.Labels) {
			continue
		}
		for i, s := range g.Spec.Servers {
			bind := b.wildcard()
			if a, err := netip.ParseAddr(s.Bind); err == nil {
				bind = a
			}
			address := netip.AddrPortFrom(bind, b.gatewayPort(uint16(s.GetPort().GetNumber())))
			one := &server{g, i, s, address}
			if first := conflicting(byAddress, one); first != nil {
				b.report(resource.Error, &g.Meta, one.path()+".port", "port "+itoa(int(s.Port.Number))+" is served as "+first.Port.Protocol+" by "+first.gw.At(first.path()).String()+"; this server is not in force (IST0145)", "use another port, or the same protocol and bind address")
				continue
			}
			byAddress[address] = append(byAddress[address], one)
		}
	}
	addresses := make([]netip.AddrPort, 0, len(byAddress))
	for a := range byAddress {
		addresses = append(addresses, a)
	}
	slices.SortFunc(addresses, func(a, c netip.AddrPort) int {
		return cmp.Or(cmp.Compare(a.Port(), c.Port()), a.Addr().Compare(c.Addr()))
	})
	for _, a := range addresses {
		b.gatewayListener(a, byAddress[a])
	}
}

// conflicting finds a server that cannot share a port with s: of another
// family, or on a socket that one of the two would take from the other.
func conflicting(have map[netip.AddrPort][]*server, s *server) *server {
	for address, servers := range have {
		if address.Port() != s.bind.Port() || address.Addr().Is4() != s.bind.Addr().Is4() {
			continue
		}
		overlap := address != s.bind && (address.Addr().IsUnspecified() || s.bind.Addr().IsUnspecified())
		if overlap || address == s.bind && servers[0].family() != s.family() {
			return servers[0]
		}
	}
	return nil
}

// gatewayPort is the target port behind a port of the gateway's Service; with
// no Service, what Istio's own gateway has: 80 → 8080, 443 → 8443.
func (b *builder) gatewayPort(number uint16) uint16 {
	for _, s := range b.Index.services {
		for _, w := range s.instances {
			if w.Name == b.node.Name && w.Namespace == b.node.Namespace {
				if p := s.port(number); p != nil {
					return p.portOn(w)
				}
			}
		}
	}
	switch number {
	case 80:
		return 8080
	case 443:
		return 8443
	}
	return number
}

func (b *builder) gatewayListener(address netip.AddrPort, servers []*server) {
	port := itoa(int(address.Port()))
	l := &ir.Listener{Name: address.Addr().String() + "_" + port, Address: address, Direction: ir.Outbound, Bind: true, Origin: servers[0].gw.At(servers[0].path())}
	switch servers[0].family() {
	case plainServers:
		name := "http." + port
		if servers[0].Bind != "" {
			name += "." + servers[0].Bind
		}
		l.Chains = append(l.Chains, &ir.FilterChain{Name: name, HTTP: b.edge(name), Filters: b.filters(true), Origin: l.Origin})
		b.out.Routes = append(b.out.Routes, b.gatewayRoutes(name, servers))
	case tcpServers:
		b.tcpServers(l, servers)
	case tlsServers:
		l.InspectTLS, l.InspectTimeout = true, b.inspectTimeout()
		for _, s := range servers {
			b.tlsServer(l, s)
		}
		b.misdirected(l)
	}
	if len(l.Chains) > 0 {
		b.out.Listeners = append(b.out.Listeners, l)
	}
}

// edge is the HTTP connection manager of a gateway.
func (b *builder) edge(table string) *ir.HTTP {
	h := b.http(table)
	h.UseRemoteAddress, h.ServerName = true, "istio-envoy"
	h.TrustedHops = int(b.proxy.GetGatewayTopology().GetNumTrustedProxies())
	h.ForwardClientCert, h.WholeClientCert = b.edgeClientCert(), true // whoever reads it may not know the client's authority
	return h
}

// tlsServer adds the chains of a server whose connections begin with TLS.
func (b *builder) tlsServer(l *ir.Listener, s *server) {
	switch s.Tls.GetMode() {
	case networking.ServerTLSSettings_PASSTHROUGH:
		b.passthrough(l, s)
		return
	case networking.ServerTLSSettings_AUTO_PASSTHROUGH:
		b.autoPassthrough(l, s)
		return
	}
	https := strings.EqualFold(s.Port.Protocol, "HTTPS")
	// Bytes may be HTTP too: clients that insist on ALPN (gRPC) get an answer.
	tls := b.serverTLS(&s.gw.Meta, s.path()+".tls", s.Tls, []string{"h2", "http/1.1"})
	if tls == nil {
		return
	}
	names := b.ownServerNames(l, s)
	if names == nil {
		return
	}
	match := ir.ChainMatch{Transport: ir.TransportTLS, ServerNames: names}
	if slices.Contains(names, "*") {
		match.ServerNames = nil
	}
	if !https {
		for _, c := range b.serverTCP(s) {
			c.TLS, c.Match.Transport, c.Match.ServerNames = tls, match.Transport, match.ServerNames
			l.Chains = append(l.Chains, c)
		}
		return
	}
	name := strings.Join([]string{"https", itoa(int(s.Port.Number)), s.Port.Name, s.gw.Name, s.gw.Namespace}, ".")
	l.Chains = append(l.Chains, &ir.FilterChain{Name: name, TLS: tls, HTTP: b.edge(name), Filters: b.filters(true), Origin: s.gw.At(s.path()), Match: match})
	b.out.Routes = append(b.out.Routes, b.gatewayRoutes(name, []*server{s}))
}

// ownServerNames are the server's hosts that no earlier server of the listener
// has; the others are reported (IST0145). nil: none is left.
func (b *builder) ownServerNames(l *ir.Listener, s *server) []string {
	var names []string
	for i, h := range s.Hosts {
		h = serverHost(h)
		if first := chainFor(l, h); first != nil {
			b.report(resource.Error, &s.gw.Meta, at(s.path()+".hosts", i), first.Origin.String()+" serves "+h+" on this port already; this host is not in force here (IST0145)", "")
			continue
		}
		if !slices.Contains(names, h) {
			names = append(names, h)
		}
	}
	return names
}

// chainFor finds the chain that has exactly this server name ("*" is any).
func chainFor(l *ir.Listener, host string) *ir.FilterChain {
	for _, c := range l.Chains {
		if slices.Contains(c.Match.ServerNames, host) || len(c.Match.ServerNames) == 0 && host == "*" {
			return c
		}
	}
	return nil
}
