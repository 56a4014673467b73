package compile

import (
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// quietCaller is how long a connection to a port that only HTTP is served on
// may say nothing: as long as one that has carried requests.
const quietCaller = ir.Duration(time.Hour)

// listeners are the outbound listeners being made, by address. Those on the
// wildcard address are shared by whatever has no address of its own.
type listeners struct {
	byAddress map[netip.AddrPort]*ir.Listener
	order     []*ir.Listener
}

// at finds or makes the listener of an address.
func (ls *listeners) at(a netip.AddrPort, e *egress) *ir.Listener {
	if l := ls.byAddress[a]; l != nil {
		return l
	}
	l := &ir.Listener{Name: a.Addr().String() + "_" + itoa(int(a.Port())), Address: a, Direction: ir.Outbound, Bind: e.port != 0 && e.own}
	if e.port != 0 {
		l.Origin = e.origin
	}
	if ls.byAddress == nil {
		ls.byAddress = map[netip.AddrPort]*ir.Listener{}
	}
	ls.byAddress[a] = l
	ls.order = append(ls.order, l)
	return l
}

// finish says what each listener must look at to choose a chain, and where
// connections go that no chain takes: on the wildcard address, where any
// destination may arrive, on to it as to every undeclared one.
func (ls *listeners) finish(b *builder) []*ir.Listener {
	for _, l := range ls.order {
		for _, c := range l.Chains {
			l.InspectTLS = l.InspectTLS || c.Match.Transport != "" || len(c.Match.ServerNames) > 0
			l.InspectHTTP = l.InspectHTTP || c.HTTP != nil && len(c.Match.ALPN) > 0
		}
		switch {
		case l.InspectHTTP && l.Default == nil: // a caller may connect long before its first request
			l.InspectTimeout = quietCaller
		case l.InspectTLS || l.InspectHTTP:
			l.InspectTimeout, l.ContinueOnInspectTimeout = b.inspectTimeout(), true
		}
		if l.Default == nil && l.Address.Addr().IsUnspecified() {
			l.Default = &ir.FilterChain{Name: "PassthroughFilterChain", TCP: b.unknownTCP()}
		}
	}
	return ls.order
}

// addChain gives a listener one more chain; one without match becomes its
// default where there is anything to sniff. Of two that match alike the first
// wins, and s, whose chain it is, is told.
func (b *builder) addChain(l *ir.Listener, c *ir.FilterChain, s *service) {
	for _, have := range append(l.Chains, l.Default) {
		if have == nil || !sameMatch(have.Match, c.Match) || strings.Join(have.Match.ALPN, ",") != strings.Join(c.Match.ALPN, ",") {
			continue
		}
		if s != nil {
			b.report(resource.Warning, s.Meta, "spec.ports", "connections to "+l.Address.String()+" cannot be told from those of "+have.Origin.String()+", which has them", "give it an address of its own")
		}
		return
	}
	if sameMatch(c.Match, ir.ChainMatch{}) && l.Address.Addr().IsUnspecified() {
		l.Default = c
		return
	}
	l.Chains = append(l.Chains, c)
}

// opaque compiles a port whose connections are routed whole, or sniffed.
func (b *builder) opaque(e *egress, s *service, p *servicePort) {
	for _, to := range b.addresses(e, s, p) {
		address := netip.AddrPortFrom(to.addr, p.number)
		if b.listeners.byAddress[address] != nil && !to.addr.IsUnspecified() && e.port == 0 {
			continue // two services with one address: the older has it
		}
		l := b.listeners.at(address, e)
		if l.Origin.IsZero() && !to.addr.IsUnspecified() {
			l.Origin = s.Origin()
		}
		chains, rest := b.l4Chains(s, p)
		if rest {
			name := l.Name
			if to.addr.IsUnspecified() { // one of several
				name += "_" + s.host
			}
			chains = append(chains, b.wholeChain(name, s, p))
		}
		for _, c := range chains {
			c.Match = to.narrow(c.Match)
			b.addChain(l, c, s)
		}
		if p.protocol == protoAuto {
			b.sniffed(l, s, p, to)
		}
	}
}

// wholeChain forwards a service's connections without looking into them.
func (b *builder) wholeChain(name string, s *service, p *servicePort) *ir.FilterChain {
	return &ir.FilterChain{Name: name, Origin: s.Origin(), TCP: &ir.TCPProxy{
		StatPrefix: s.host, AccessLog: b.accessLog(), Clusters: []ir.WeightedCluster{{Name: b.addCluster(s, s.port(p.number), "")}}}}
}

// sniffed adds the chain for requests to a port that says nothing. The chain
// for bytes becomes the default: it takes what the inspection leaves.
func (b *builder) sniffed(l *ir.Listener, s *service, p *servicePort, to destination) {
	if last := len(l.Chains) - 1; last >= 0 && sameMatch(l.Chains[last].Match, ir.ChainMatch{}) {
		l.Default, l.Chains = l.Chains[last], l.Chains[:last]
	}
	table := s.host + ":" + itoa(int(p.number))
	c := &ir.FilterChain{Name: l.Name + "_http", Match: ir.ChainMatch{Transport: ir.TransportRaw, ALPN: plainHTTP, Prefixes: to.prefixes}, HTTP: b.http(table)}
	before := len(l.Chains)
	if b.addChain(l, c, s); len(l.Chains) == before || b.out.RouteTable(table) != nil {
		return
	}
	hosts := b.serviceHosts(s, p)
	for _, h := range hosts { // the address has said whom the caller means
		h.Domains = []string{"*"}
	}
	b.out.Routes = append(b.out.Routes, &ir.RouteTable{Name: table, VirtualHosts: hosts})
}

// destination is where connections to a service arrive: at an address of its
// own, or anywhere, told apart by prefix or by server name.
type destination struct {
	addr       netip.Addr
	prefixes   []netip.Prefix
	serverName string
}

// narrow asks of a chain what tells this destination.
func (d destination) narrow(m ir.ChainMatch) ir.ChainMatch {
	if len(d.prefixes) > 0 && len(m.Prefixes) == 0 {
		m.Prefixes = d.prefixes
	}
	if d.serverName != "" && len(m.ServerNames) == 0 {
		m.Transport, m.ServerNames = ir.TransportTLS, []string{d.serverName}
	}
	return m
}

// addresses are the destinations of a service port.
func (b *builder) addresses(e *egress, s *service, p *servicePort) []destination {
	if e.port != 0 && (e.own || !e.bind.IsUnspecified()) {
		return []destination{{addr: e.bind}} // the Sidecar says where
	}
	var out []destination
	for _, a := range s.vips {
		if b.reaches(a) {
			out = append(out, destination{addr: a})
		}
	}
	if len(s.cidrs) > 0 {
		out = append(out, destination{addr: b.wildcard(), prefixes: s.cidrs})
	}
	switch {
	case s.headless:
		for _, w := range s.instances { // callers connect to an instance they found by DNS
			if w.Address.IsValid() && b.reaches(w.Address) && !(w.Name == b.node.Name && w.Namespace == b.node.Namespace) {
				out = append(out, destination{addr: w.Address})
			}
		}
	case p.protocol == protoTLS && s.entry != nil && (s.allocated || len(out) == 0):
		// Also callers that did not ask our DNS say whom they mean.
		out = append(out, destination{addr: b.wildcard(), serverName: s.host})
	case s.entry != nil && len(out) == 0:
		out = append(out, destination{addr: b.wildcard()}) // any address (SE3)
	}
	return out
}
