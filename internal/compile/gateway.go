package compile

import (
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
	bind uint16 // the port of the process behind the Gateway's port
}

func (s *server) path() string { return at("spec.servers", s.index) }

// gateway compiles an ingress or egress gateway: one listener per port, all
// plain HTTP servers of a port merged, a filter chain by SNI for each HTTPS
// server.
func (b *builder) gateway() {
	b.addSpecial()
	byPort := map[uint16][]*server{}
	for _, g := range b.set.Gateways {
		if !subset(g.Spec.Selector, b.node.Labels) {
			continue
		}
		for i, s := range g.Spec.Servers {
			bind := b.gatewayPort(uint16(s.GetPort().GetNumber()))
			byPort[bind] = append(byPort[bind], &server{g, i, s, bind})
		}
	}
	ports := make([]uint16, 0, len(byPort))
	for p := range byPort {
		ports = append(ports, p)
	}
	slices.Sort(ports)
	for _, p := range ports {
		b.gatewayListener(p, byPort[p])
	}
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

func (b *builder) gatewayListener(port uint16, servers []*server) {
	l := &ir.Listener{Name: "0.0.0.0_" + itoa(int(port)), Address: netip.AddrPortFrom(b.wildcard(), port), Direction: ir.Outbound, Bind: true, Origin: servers[0].gw.At(servers[0].path())}
	var plain []*server
	for _, s := range servers {
		switch strings.ToUpper(s.Port.Protocol) {
		case "HTTP":
			plain = append(plain, s)
		case "HTTPS":
			l.InspectTLS, l.InspectTimeout = true, b.inspectTimeout()
			if c := b.httpsChain(s); c != nil {
				l.Chains = append(l.Chains, c)
			}
		default:
			b.unsupported(&s.gw.Meta, s.path()+".port.protocol")
		}
	}
	if len(plain) > 0 {
		name := "http." + itoa(int(port))
		l.Chains = append(l.Chains, &ir.FilterChain{Name: name, HTTP: b.edge(name), Filters: b.filters(true), Origin: plain[0].gw.At(plain[0].path())})
		b.out.Routes = append(b.out.Routes, b.gatewayRoutes(name, plain))
	}
	if len(l.Chains) > 0 {
		b.out.Listeners = append(b.out.Listeners, l)
	}
}

// edge is the HTTP connection manager of a gateway.
func (b *builder) edge(table string) *ir.HTTP {
	h := b.http(table)
	h.UseRemoteAddress, h.ForwardClientCert, h.ServerName = true, "sanitizeSet", "istio-envoy"
	return h
}

// httpsChain terminates TLS with the server's credential. Without it the chain
// does not exist, and the handshake is refused.
func (b *builder) httpsChain(s *server) *ir.FilterChain {
	t := s.Tls
	if t.Mode != networking.ServerTLSSettings_SIMPLE && t.Mode != networking.ServerTLSSettings_MUTUAL {
		b.unsupported(&s.gw.Meta, s.path()+".tls.mode")
		return nil
	}
	if t.CredentialName == "" {
		b.unsupported(&s.gw.Meta, s.path()+".tls")
		return nil
	}
	if !b.addCredential(s, t.Mode == networking.ServerTLSSettings_MUTUAL) {
		return nil
	}
	name := strings.Join([]string{"https", itoa(int(s.bind)), s.Port.Name, s.gw.Name, s.gw.Namespace}, ".")
	secret := "kubernetes://" + t.CredentialName
	tls := &ir.DownstreamTLS{Secret: secret, ALPN: []string{"http/1.1"}, RequireClientCert: t.Mode == networking.ServerTLSSettings_MUTUAL}
	if tls.RequireClientCert {
		tls.ValidationSecret = secret
	}
	version := map[networking.ServerTLSSettings_TLSProtocol]string{networking.ServerTLSSettings_TLSV1_2: "1.2", networking.ServerTLSSettings_TLSV1_3: "1.3"}
	tls.MinVersion, tls.MaxVersion = version[t.MinProtocolVersion], version[t.MaxProtocolVersion]
	c := &ir.FilterChain{Name: name, TLS: tls, HTTP: b.edge(name), Filters: b.filters(true), Origin: s.gw.At(s.path()), Match: ir.ChainMatch{Transport: ir.TransportTLS}}
	for _, h := range s.Hosts {
		if h = serverHost(h); h == "*" {
			c.Match.ServerNames = nil
			break
		}
		c.Match.ServerNames = append(c.Match.ServerNames, h)
	}
	b.out.Routes = append(b.out.Routes, b.gatewayRoutes(name, []*server{s}))
	return c
}

// addCredential delivers the Secret that credentialName names.
func (b *builder) addCredential(s *server, needCA bool) bool {
	name := "kubernetes://" + s.Tls.CredentialName
	for _, have := range b.out.Secrets {
		if have.Name == name && (have.CA != nil || !needCA) {
			return true
		}
	}
	for _, k := range b.set.Secrets {
		if k.Name != s.Tls.CredentialName || k.Namespace != b.node.Namespace && k.Namespace != s.gw.Namespace {
			continue
		}
		pick := func(keys ...string) []byte {
			for _, key := range keys {
				if v, ok := k.Spec.Data[key]; ok {
					return v
				}
				if v, ok := k.Spec.StringData[key]; ok {
					return []byte(v)
				}
			}
			return nil
		}
		secret := &ir.Secret{Name: name, Cert: pick("tls.crt", "cert"), Key: pick("tls.key", "key"), CA: pick("ca.crt", "cacert"), Origin: k.Origin()}
		if secret.Cert == nil || secret.Key == nil || needCA && secret.CA == nil {
			b.report(resource.Error, &k.Meta, "data", "the Secret lacks tls.crt, tls.key or (for MUTUAL) ca.crt; the server is not served", "")
			return false
		}
		b.out.Secrets = append(b.out.Secrets, secret)
		return true
	}
	b.report(resource.Error, &s.gw.Meta, s.path()+".tls.credentialName", "no Secret "+s.Tls.CredentialName+"; the server is not served", "create it in the gateway's namespace or beside the Gateway")
	return false
}

// serverHost is a server's host without its namespace.
func serverHost(h string) string {
	if _, after, ok := strings.Cut(h, "/"); ok {
		return after
	}
	return h
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
			if !boundTo(vs.Spec.Gateways, gw, vs.Namespace) || len(vs.Spec.Http) == 0 {
				continue
			}
			for _, h := range vs.Spec.Hosts {
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
		hosts[h].Routes = s.redirectRoutes()
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
	return s.Tls.GetHttpsRedirect() && strings.EqualFold(s.Port.Protocol, "HTTP")
}

func (s *server) redirectRoutes() []*ir.Route {
	return []*ir.Route{{Name: "https-redirect", Redirect: &ir.Redirect{HTTPS: true, Code: 301}, Origin: s.gw.At(s.path() + ".tls.httpsRedirect")}}
}

func catchAllRank(r *ir.Route) int {
	m := r.Match
	if len(m.Headers)+len(m.Query) == 0 && (m.Path == nil || m.Path.Kind == ir.Prefix && m.Path.Value == "/" || m.Path.Kind == ir.Regex && m.Path.Value == ".*") {
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
		if ns, after, ok := strings.Cut(sh, "/"); ok {
			if ns != "*" && ns != vsNamespace && !(ns == "." && vsNamespace == gwNamespace) {
				continue
			}
			sh = after
		}
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
