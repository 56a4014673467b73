package compile

import (
	"net/netip"
	"slices"
	"strings"

	meshv1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// egress is what a proxy may call through one egress listener of its Sidecar.
// Port 0: through the listeners that the services themselves ask for.
type egress struct {
	port     uint16
	protocol protocol
	bind     netip.Addr
	own      bool // it has a socket of its own (captureMode NONE)
	hosts    egressHosts
	services []*service
	origin   ir.Origin
}

// scope finds what the proxy sees: the Sidecar that holds for it (SC1), the
// services that are exported to it and, of those, what the Sidecar lets it call.
func (b *builder) scope() {
	b.byHost = map[string]*service{}
	var exported []*service
	for _, s := range b.Index.services {
		if !s.exportedTo(b.node.Namespace) {
			continue
		}
		exported = append(exported, s)
		if have := b.byHost[s.host]; have == nil || have.entry != nil && have.Namespace != b.node.Namespace && s.Namespace == b.node.Namespace {
			b.byHost[s.host] = s
		}
	}
	// Of services with one host the proxy sees one: its own namespace's, else
	// the oldest; others add ports that it does not have.
	exported = slices.DeleteFunc(exported, func(s *service) bool {
		chosen := b.byHost[s.host]
		return chosen != s && !slices.ContainsFunc(s.ports, func(p servicePort) bool { return chosen.port(p.number) == nil })
	})
	b.services = exported
	b.egress = []*egress{{services: exported, hosts: egressHosts{{"*", "*"}}}}
	if b.node.Type == ir.Router {
		return
	}
	if b.sidecar = b.sidecarFor(); b.sidecar == nil || len(b.sidecar.Spec.Egress) == 0 {
		return
	}
	b.egress, b.services = nil, nil
	seen := map[*service]bool{}
	for i, l := range b.sidecar.Spec.Egress {
		e := b.egressListener(l, at("spec.egress", i), exported)
		b.egress = append(b.egress, e)
		for _, s := range e.services {
			if !seen[s] {
				seen[s] = true
				b.services = append(b.services, s)
			}
		}
	}
	b.set = b.visibleRules()
}

func (b *builder) egressListener(l *networking.IstioEgressListener, path string, exported []*service) *egress {
	e := &egress{port: uint16(l.Port.GetNumber()), origin: b.sidecar.At(path), bind: b.wildcard()}
	e.own = l.CaptureMode == networking.CaptureMode_NONE
	if e.port != 0 {
		e.protocol = parseProtocol(l.Port.Protocol, e.port)
		if l.Port.Protocol == "" {
			e.protocol = parseProtocol(l.Port.Name, e.port)
		}
	} else if e.own {
		b.report(resource.Error, &b.sidecar.Meta, path+".captureMode", "NONE needs a port: without one there is no socket to listen on", "")
	}
	if a, err := netip.ParseAddr(l.Bind); err == nil {
		e.bind = a
	} else if e.own {
		e.bind = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	for _, h := range l.Hosts {
		ns, host, _ := strings.Cut(h, "/")
		e.hosts = append(e.hosts, egressHost{ns, host})
	}
	for _, s := range exported {
		if e.hosts.take(s.Namespace, s.host, b.node.Namespace) && (e.port == 0 || s.port(e.port) != nil) {
			e.services = append(e.services, s)
		}
	}
	return e
}

// egressHost is "namespace/host"; namespace "*" is every, "." the proxy's own,
// "~ns" excludes and "~" stands for nothing at all.
type egressHost struct{ namespace, host string }

type egressHosts []egressHost

// take reports whether a host of a namespace is imported: named by an entry and
// by no exclusion (SC3).
func (hosts egressHosts) take(namespace, host, own string) bool {
	taken := false
	for _, h := range hosts {
		ns, excluded := strings.CutPrefix(h.namespace, "~")
		if excluded && ns == "" || !hostMatches(h.host, host) {
			continue
		}
		if ns == "*" || ns == namespace || ns == "." && namespace == own {
			if excluded {
				return false
			}
			taken = true
		}
	}
	return taken
}

// visibleRules is the set without the VirtualServices that no egress listener
// imports. What they route to is reachable all the same, as in Istio.
func (b *builder) visibleRules() *resource.Set {
	c := *b.set
	c.VirtualServices = nil
	for _, vs := range b.set.VirtualServices {
		for _, e := range b.egress {
			if slices.ContainsFunc(vs.Spec.Hosts, func(h string) bool { return e.hosts.imports(vs.Namespace, fqdn(h, vs.Namespace), b.node.Namespace) }) {
				c.VirtualServices = append(c.VirtualServices, vs)
				break
			}
		}
	}
	return &c
}

// imports is take for the host of a rule, which may itself be a wildcard.
func (hosts egressHosts) imports(namespace, host, own string) bool {
	if !strings.HasPrefix(host, "*") {
		return hosts.take(namespace, host, own)
	}
	for _, h := range hosts {
		if !strings.HasPrefix(h.namespace, "~") && (hostMatches(h.host, host) || hostMatches(host, h.host)) &&
			(h.namespace == "*" || h.namespace == namespace || h.namespace == "." && namespace == own) {
			return true
		}
	}
	return false
}

// sidecarFor finds the Sidecar of a proxy: one of its namespace that selects
// it, else the namespace's without selector, else the root namespace's. Of two
// that compete the older wins.
func (b *builder) sidecarFor() *resource.Sidecar {
	ranked := [3]*resource.Sidecar{}
	for _, sc := range b.Index.set.Sidecars {
		labels := sc.Spec.WorkloadSelector.GetLabels()
		rank := -1
		switch {
		case sc.Namespace == b.node.Namespace && len(labels) > 0:
			if subset(labels, b.node.Labels) {
				rank = 0
			}
		case sc.Namespace == b.node.Namespace:
			rank = 1
		case sc.Namespace == b.rootNamespace() && len(labels) == 0:
			rank = 2
		}
		if rank < 0 {
			continue
		}
		if first := ranked[rank]; first != nil {
			b.report(resource.Warning, &sc.Meta, "spec.workloadSelector", "Sidecar "+first.Namespace+"/"+first.Name+" holds for the same workloads; the older one is used ("+[3]string{"IST0110", "IST0111", "IST0111"}[rank]+")", "merge them, or select other workloads")
			continue
		}
		ranked[rank] = sc
	}
	for _, sc := range ranked {
		if sc != nil {
			return sc
		}
	}
	return nil
}

// allowAny reports whether destinations that nobody declared may be called
// (SC5): the Sidecar's word, else the mesh's.
func (b *builder) allowAny() bool {
	if p := b.sidecar; p != nil && p.Spec.OutboundTrafficPolicy != nil {
		return p.Spec.OutboundTrafficPolicy.Mode != networking.OutboundTrafficPolicy_REGISTRY_ONLY
	}
	return b.mesh.GetOutboundTrafficPolicy().GetMode() != meshv1.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
}
