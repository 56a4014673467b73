package compile

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// l4Chains are the filter chains that VirtualServices give a service's TCP or
// TLS port. Unlike http routes, those of several VirtualServices add up, in
// order of age. rest: connections that none of the chains takes still go to the
// service itself.
func (b *builder) l4Chains(s *service, p *servicePort) (chains []*ir.FilterChain, rest bool) {
	rest = true
	for _, vs := range b.set.VirtualServices {
		if !boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) || !b.virtualServiceVisible(vs, b.node.Namespace) || !namesHost(vs, s.host) {
			continue
		}
		if p.protocol == protoTLS {
			more := b.tlsRoutes(vs, "mesh", p.number, s.vip)
			chains = append(chains, more...)
			rest = rest && len(more) == 0 // a server name nobody routes has no chain, as in Istio
			continue
		}
		for _, c := range b.tcpRoutes(vs, "mesh", p.number, s.vip) {
			chains = append(chains, c)
			if len(c.Match.Prefixes) == 0 {
				return chains, false
			}
		}
	}
	return chains, rest
}

func namesHost(vs *resource.VirtualService, host string) bool {
	return slices.ContainsFunc(vs.Spec.Hosts, func(h string) bool { return hostMatches(fqdn(h, vs.Namespace), host) })
}

// tlsRoutes compiles tls[] (VS50) for one port, seen from a gateway ("mesh" for
// sidecars): a filter chain for each match block that is meant for this proxy.
// Connections are forwarded as they are; the server name decides. vip is the
// only address that connections to the listener can have, if there is one.
func (b *builder) tlsRoutes(vs *resource.VirtualService, gateway string, port uint16, vip netip.Addr) []*ir.FilterChain {
	var out []*ir.FilterChain
	for i, r := range vs.Spec.Tls {
		path := at("spec.tls", i)
		for j, m := range r.Match {
			if m.Port != 0 && m.Port != uint32(port) || !b.sourceApplies(vs, m.Gateways, m.SourceLabels, m.SourceNamespace, gateway) {
				continue
			}
			prefixes, reachable := destinations(m.DestinationSubnets, vip)
			if !reachable {
				continue
			}
			c := b.l4Chain(vs, r.Route, path, port)
			c.Name = strings.Join([]string{"tls", vs.Namespace, vs.Name, itoa(i), itoa(j)}, ".")
			c.Match = ir.ChainMatch{Transport: ir.TransportTLS, ServerNames: serverNames(m.SniHosts), Prefixes: prefixes}
			c.Origin = vs.At(at(path+".match", j))
			if !slices.ContainsFunc(out, func(have *ir.FilterChain) bool { return sameMatch(have.Match, c.Match) }) {
				out = append(out, c)
			}
		}
	}
	return out
}

// tcpRoutes compiles tcp[] (VS51) for one port. A rule without destination
// subnets takes everything and ends the list. vip as for tlsRoutes.
func (b *builder) tcpRoutes(vs *resource.VirtualService, gateway string, port uint16, vip netip.Addr) []*ir.FilterChain {
	var out []*ir.FilterChain
	for i, r := range vs.Spec.Tcp {
		path := at("spec.tcp", i)
		takesAll, prefixes := len(r.Match) == 0, []netip.Prefix(nil)
		for _, m := range r.Match {
			if m.Port != 0 && m.Port != uint32(port) || !b.sourceApplies(vs, m.Gateways, m.SourceLabels, m.SourceNamespace, gateway) {
				continue
			}
			more, reachable := destinations(m.DestinationSubnets, vip)
			takesAll = takesAll || reachable && len(more) == 0
			prefixes = append(prefixes, more...)
		}
		if !takesAll && len(prefixes) == 0 {
			continue
		}
		c := b.l4Chain(vs, r.Route, path, port)
		c.Name = strings.Join([]string{"tcp", vs.Namespace, vs.Name, itoa(i)}, ".")
		if !takesAll {
			c.Match.Prefixes = prefixes
		}
		if out = append(out, c); takesAll {
			return out
		}
	}
	return out
}

// l4Chain is a chain without match that forwards bytes to a rule's route[].
func (b *builder) l4Chain(vs *resource.VirtualService, route []*networking.RouteDestination, path string, port uint16) *ir.FilterChain {
	tcp := &ir.TCPProxy{StatPrefix: vs.Name + "." + vs.Namespace, AccessLog: b.accessLog()}
	for i, d := range route {
		sub := at(path+".route", i)
		if d.Weight == 0 && len(route) > 1 {
			continue
		}
		tcp.Clusters = append(tcp.Clusters, ir.WeightedCluster{Name: b.destination(vs, d.Destination, sub+".destination", port), Weight: uint32(d.Weight), Origin: vs.At(sub)})
	}
	return &ir.FilterChain{TCP: tcp, Origin: vs.At(path)}
}

func serverNames(sniHosts []string) []string {
	if slices.Contains(sniHosts, "*") {
		return nil
	}
	return sniHosts
}

// destinations are the prefixes to ask of a connection. Where all connections
// go to one address the answer is known already: none to ask, or not reachable.
func destinations(list []string, vip netip.Addr) (prefixes []netip.Prefix, reachable bool) {
	for _, s := range list {
		if p, err := resource.ParseSubnet(s); err == nil { // resource has reported the others
			prefixes = append(prefixes, p)
		}
	}
	if !vip.IsValid() || len(list) == 0 {
		return prefixes, true
	}
	return nil, slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(vip) })
}

// sameMatch: Envoy refuses a listener with two chains that match alike; the
// first wins.
func sameMatch(a, b ir.ChainMatch) bool {
	return a.Port == b.Port && a.Transport == b.Transport && slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.ServerNames, b.ServerNames)
}
