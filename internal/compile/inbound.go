package compile

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// inboundPort is one port on which the workload is called, with the service
// port that leads there.
type inboundPort struct {
	number  uint16
	service *service
	port    *servicePort
	ingress *ingress // what the Sidecar says of the port; nil: nothing
}

// inbound compiles what a sidecar does with connections to its workload.
func (b *builder) inbound() {
	l := &ir.Listener{
		Name: "virtualInbound", Address: netip.AddrPortFrom(b.wildcard(), InboundPort), Direction: ir.Inbound, Bind: true, UseOriginalDst: true,
		InspectTLS: true, InspectTimeout: b.inspectTimeout(), ContinueOnInspectTimeout: true,
	}
	for _, p := range b.inboundPorts() {
		if own := p.ingress.socket(b, p.number); own != nil {
			b.inboundListener(own, p)
			continue
		}
		if p.port.protocol == protoAuto {
			l.InspectHTTP = true
		}
		l.Chains = append(l.Chains, b.inboundChains(p)...)
		b.out.Clusters = append(b.out.Clusters, b.inboundCluster(p))
		if !p.port.protocol.opaque() {
			b.out.Routes = append(b.out.Routes, inboundRoutes(p))
		}
	}
	for _, port := range b.portLevels() {
		if !slices.ContainsFunc(l.Chains, func(c *ir.FilterChain) bool { return c.Match.Port == port }) {
			l.Chains = append(l.Chains, b.passthroughChains(port)...)
		}
	}
	l.Chains = append(l.Chains, b.passthroughChains(0)...)
	unknown := b.passthroughCluster(ir.InboundPassthrough)
	unknown.BindSource = inboundSource
	b.out.Clusters = append(b.out.Clusters, unknown)
	b.out.Listeners = append(b.out.Listeners, l)
}

// inboundPorts are the workload's ports: those its Sidecar lists, else those
// that services lead to; the oldest service decides where two lead to one.
func (b *builder) inboundPorts() []inboundPort {
	if b.sidecar != nil && len(b.sidecar.Spec.Ingress) > 0 {
		return b.ingressPorts()
	}
	return b.servedPorts()
}

func (b *builder) servedPorts() []inboundPort {
	var out []inboundPort
	seen := map[uint16]bool{}
	for _, s := range b.Index.services {
		for _, w := range s.instances {
			if w.Name != b.node.Name || w.Namespace != b.node.Namespace {
				continue
			}
			for i := range s.ports {
				if n := s.ports[i].portOn(w); n != 0 && !seen[n] {
					seen[n] = true
					out = append(out, inboundPort{number: n, service: s, port: &s.ports[i]})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b inboundPort) int { return int(a.number) - int(b.number) })
	return out
}

func inboundName(port uint16) string { return clusterName("inbound", port, "", "") }

// inboundTLS is the server side of mutual TLS.
func (b *builder) inboundTLS(alpn ...string) *ir.DownstreamTLS {
	out := &ir.DownstreamTLS{Secret: ir.SecretWorkload, RequireClientCert: true, ValidationSecret: ir.SecretRootCA, ALPN: alpn}
	for _, td := range b.trustDomains() {
		out.SANs = append(out.SANs, ir.Match{Kind: ir.Prefix, Value: "spiffe://" + td + "/"})
	}
	b.meshParameters(&out.MinVersion, &out.CipherSuites)
	return out
}

// inboundChains are the filter chains of one port: which exist depends on its
// mutual TLS mode.
func (b *builder) inboundChains(p inboundPort) []*ir.FilterChain {
	mode, from := b.PeerMode(b.node.Namespace, b.node.Labels, p.number)
	name := inboundName(p.number)
	http := func() *ir.HTTP {
		h := b.http(name)
		h.ForwardClientCert = b.inboundClientCert()
		return h
	}
	tcp := func() *ir.TCPProxy {
		return &ir.TCPProxy{StatPrefix: name, Clusters: []ir.WeightedCluster{{Name: name}}, AccessLog: b.accessLog()}
	}
	var out []*ir.FilterChain
	add := func(suffix string, m ir.ChainMatch, tls *ir.DownstreamTLS, isHTTP bool) {
		m.Port = p.number
		c := &ir.FilterChain{Name: "0.0.0.0_" + itoa(int(p.number)) + suffix, Match: m, TLS: tls, Origin: from}
		if isHTTP {
			c.HTTP, c.Filters = http(), b.filters(true)
		} else {
			c.TCP, c.Filters = tcp(), b.filters(false)
		}
		out = append(out, c)
	}
	if mode == string(modeDisable) && p.ingress.tls(b) != nil {
		add("_tls", ir.ChainMatch{Transport: ir.TransportTLS}, p.ingress.tls(b), p.port.protocol.isHTTP())
		return out // the Sidecar asks for TLS of its own: nothing else is served
	}
	isHTTP, auto := p.port.protocol.isHTTP(), p.port.protocol == protoAuto
	served := istioALPN[:2]
	if isHTTP {
		served = servedALPN
	}
	if mode != string(modeDisable) {
		match := ir.ChainMatch{Transport: ir.TransportTLS}
		if mode == string(modePermissive) {
			match.ALPN = istioALPN
		}
		if auto {
			add("_mtls_http", ir.ChainMatch{Transport: ir.TransportTLS, ALPN: istioHTTPALPN}, b.inboundTLS(servedALPN...), true)
			if match.ALPN != nil {
				match.ALPN = istioALPN[:2]
			}
		}
		add("_mtls", match, b.inboundTLS(served...), isHTTP)
	}
	if mode != string(modeStrict) {
		switch {
		case auto:
			add("_http", ir.ChainMatch{Transport: ir.TransportRaw, ALPN: plainHTTP}, nil, true)
			add("_tcp", ir.ChainMatch{Transport: ir.TransportRaw}, nil, false)
		default:
			add("", ir.ChainMatch{Transport: ir.TransportRaw}, nil, isHTTP)
		}
		if !isHTTP { // the application's own TLS passes through as it is
			add("_tls", ir.ChainMatch{Transport: ir.TransportTLS}, nil, false)
		}
	}
	return out
}

// passthroughChains take ports that no service leads to, under the workload's
// mutual TLS mode; or one such port, under the mode portLevelMtls gives it.
func (b *builder) passthroughChains(port uint16) []*ir.FilterChain {
	mode, from := b.PeerMode(b.node.Namespace, b.node.Labels, port)
	name := "virtualInbound-catchall"
	if port != 0 {
		name += "_" + itoa(int(port))
	}
	tcp := &ir.TCPProxy{StatPrefix: ir.InboundPassthrough, Clusters: []ir.WeightedCluster{{Name: ir.InboundPassthrough}}, AccessLog: b.accessLog()}
	var out []*ir.FilterChain
	if mode != string(modeDisable) {
		m := ir.ChainMatch{Port: port, Transport: ir.TransportTLS}
		if mode == string(modePermissive) {
			m.ALPN = istioALPN
		}
		out = append(out, &ir.FilterChain{Name: name + "_mtls", Match: m, TLS: b.inboundTLS(istioALPN...), TCP: tcp, Filters: b.filters(false), Origin: from})
	}
	if mode != string(modeStrict) {
		out = append(out, &ir.FilterChain{Name: name, Match: ir.ChainMatch{Port: port}, TCP: tcp, Filters: b.filters(false), Origin: from})
	}
	return out
}

// inboundCluster is the way to the application: the connection's own
// destination, from a source address that redirection leaves alone. The
// service's connection pool limits hold here too, as in Istio.
func (b *builder) inboundCluster(p inboundPort) *ir.Cluster {
	c := &ir.Cluster{Name: inboundName(p.number), Type: ir.OriginalDst, LB: ir.ClusterProvided, Breaker: ir.DefaultBreaker(), BindSource: inboundSource,
		ConnectTimeout: b.connectTimeout(),
		Service:        ir.ServiceRef{Host: p.service.host, Name: p.service.shortName(), Namespace: p.service.Namespace, Port: p.port.number}, Origin: p.service.Origin()}
	c.HTTP.Protocol = p.port.protocol.upstreamProtocol()
	var pol policy // the mesh's default policy is for outbound clusters
	if r := b.inboundRule(p.service); r != nil {
		pol = pol.overlay(r.policyFrom.Spec.TrafficPolicy, r.policyFrom, "spec.trafficPolicy", p.port.number, policy{})
		c.PolicyFrom = r.policyFrom.At("spec.trafficPolicy")
	}
	b.applyPool(c, pol.pool)
	b.inboundPool(c, p)
	b.forwardTo(c, p)
	return c
}

// inboundRoutes: everything goes to the application. The retry covers the race
// of a pooled connection that the application closes (VS44).
func inboundRoutes(p inboundPort) *ir.RouteTable {
	name := inboundName(p.number)
	return &ir.RouteTable{Name: name, VirtualHosts: []*ir.VirtualHost{{
		Name: "inbound|http|" + itoa(int(p.port.number)), Domains: []string{"*"},
		Routes: []*ir.Route{{Name: "default", Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: name}},
			Retry: &ir.RetryPolicy{Attempts: 2, On: []string{"reset-before-request"}}}}},
	}}}
}
