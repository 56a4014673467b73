package compile

import (
	"net/netip"
	"strings"

	meshv1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// ingress is one ingress listener of a Sidecar (SC2).
type ingress struct {
	*networking.IstioIngressListener
	from *resource.Sidecar
	path string
}

// ingressPorts are the ports that the proxy's Sidecar lists: the workload is
// called on these and no others. A service that leads to the port names it in
// metrics.
func (b *builder) ingressPorts() []inboundPort {
	served := b.servedPorts()
	var out []inboundPort
	for i, l := range b.sidecar.Spec.Ingress {
		in := &ingress{l, b.sidecar, at("spec.ingress", i)}
		number := uint16(l.Port.Number)
		p := inboundPort{number: number, ingress: in,
			service: &service{Meta: &b.sidecar.Meta, host: "sidecar." + b.sidecar.Namespace, clusterOf: ir.Static},
			port:    &servicePort{number: number, name: l.Port.Name, protocol: parseProtocol(l.Port.Protocol, number)}}
		if l.Port.Protocol == "" {
			p.port.protocol = parseProtocol(l.Port.Name, number)
		}
		for _, s := range served {
			if s.number == number {
				p.service = s.service
				port := *s.port
				port.protocol = p.port.protocol
				p.port = &port
			}
		}
		out = append(out, p)
	}
	return out
}

// socket is the address the listener binds to itself, where nothing redirects
// connections to the proxy; nil if it takes redirected ones.
func (in *ingress) socket(b *builder, port uint16) *ir.Listener {
	if in == nil || in.CaptureMode != networking.CaptureMode_NONE {
		return nil
	}
	bind := b.wildcard()
	if a, err := netip.ParseAddr(in.Bind); err == nil {
		bind = a
	} else if len(b.node.IPs) > 0 {
		if own, err := netip.ParseAddr(b.node.IPs[0]); err == nil {
			bind = own // the application has the same port on loopback
		}
	}
	return &ir.Listener{Name: bind.String() + "_" + itoa(int(port)), Address: netip.AddrPortFrom(bind, port), Direction: ir.Inbound, Bind: true,
		InspectTLS: true, InspectTimeout: b.inspectTimeout(), ContinueOnInspectTimeout: true, Origin: in.from.At(in.path)}
}

// inboundListener compiles a port with a socket of its own.
func (b *builder) inboundListener(l *ir.Listener, p inboundPort) {
	l.InspectHTTP = p.port.protocol == protoAuto
	l.Chains = b.inboundChains(p)
	b.out.Listeners = append(b.out.Listeners, l)
	b.out.Clusters = append(b.out.Clusters, b.inboundCluster(p))
	if !p.port.protocol.opaque() {
		b.out.Routes = append(b.out.Routes, inboundRoutes(p))
	}
}

// tls is how the listener presents itself when the mesh's own TLS is off.
func (in *ingress) tls(b *builder) *ir.DownstreamTLS {
	if in == nil || in.Tls == nil {
		return nil
	}
	alpn := []string{"http/1.1"}
	if in.Port.GetProtocol() != "" && parseProtocol(in.Port.Protocol, 0) != protoHTTP {
		alpn = []string{"h2", "http/1.1"}
	}
	return b.serverTLS(&in.from.Meta, in.path+".tls", in.Tls, alpn)
}

// inboundPool overrides the DestinationRule's connection limits with the
// Sidecar's: the port's, else the whole Sidecar's (SC4). Nothing is merged.
func (b *builder) inboundPool(c *ir.Cluster, p inboundPort) {
	if b.sidecar == nil {
		return
	}
	pool, path := b.sidecar.Spec.InboundConnectionPool, "spec.inboundConnectionPool"
	if p.ingress != nil && p.ingress.ConnectionPool != nil {
		pool, path = p.ingress.ConnectionPool, p.ingress.path+".connectionPool"
	}
	if pool == nil {
		return
	}
	protocol := p.port.protocol.upstreamProtocol()
	c.Breaker, c.HTTP, c.TCPKeepalive, c.ConnectTimeout = ir.DefaultBreaker(), ir.HTTPUpstream{Protocol: protocol}, nil, b.connectTimeout()
	b.applyPool(c, pool)
	c.PolicyFrom = b.sidecar.At(path)
}

// forwardTo says where the application listens: where the connection went, or
// where the Sidecar or the mesh (inboundTrafficPolicy LOCALHOST) says.
func (b *builder) forwardTo(c *ir.Cluster, p inboundPort) {
	to := ""
	if b.mesh.GetInboundTrafficPolicy().GetMode() == meshv1.MeshConfig_InboundTrafficPolicy_LOCALHOST {
		to = joinHostPort(b.loopback(), p.number)
	}
	if p.ingress != nil {
		c.Origin = p.ingress.from.At(p.ingress.path)
		if p.ingress.DefaultEndpoint != "" {
			to = p.ingress.DefaultEndpoint
		} else if p.ingress.CaptureMode == networking.CaptureMode_NONE {
			to = joinHostPort(b.loopback(), p.number) // there is no original destination
		}
	}
	switch {
	case to == "":
		return
	case strings.HasPrefix(to, "unix://"):
		to = "unix:" + strings.TrimPrefix(to, "unix://")
		c.BindSource = netip.Addr{}
	default:
		ap, err := netip.ParseAddrPort(to)
		if err != nil { // resource has checked it
			return
		}
		if ap.Addr().IsUnspecified() { // the workload's own address
			if len(b.node.IPs) == 0 {
				return
			}
			to = joinHostPort(b.node.IPs[0], ap.Port())
		} else {
			c.BindSource = netip.Addr{}
		}
	}
	c.Type, c.LB = ir.Static, ir.RoundRobin
	c.Endpoints = &ir.EndpointSet{Cluster: c.Name, Endpoints: []ir.Endpoint{{Address: to}}}
}

func (b *builder) loopback() string {
	if !b.reaches(netip.IPv4Unspecified()) {
		return "::1"
	}
	return "127.0.0.1"
}
