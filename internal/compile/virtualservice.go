package compile

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// virtualServiceVisible applies exportTo, or the mesh's default for it (X2).
func (x *Index) virtualServiceVisible(vs *resource.VirtualService, to string) bool {
	exportTo := vs.Spec.ExportTo
	if len(exportTo) == 0 {
		exportTo = x.mesh.DefaultVirtualServiceExportTo
	}
	return visible(exportTo, vs.Namespace, to)
}

// claim is a VirtualService that names a host, and where.
type claim struct {
	vs   *resource.VirtualService
	host int // index in spec.hosts
}

// claims finds the VirtualService that sidecars of a namespace use for a host:
// the most specific host, the oldest of equals (VS5; age, then name, then
// namespace, T7). Sidecars never merge: rivals name the same host in vain.
func (x *Index) claims(host, namespace string) (best *resource.VirtualService, rivals []claim) {
	rank := -1
	for _, vs := range x.set.VirtualServices {
		if !boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) || !x.virtualServiceVisible(vs, namespace) {
			continue
		}
		for i, h := range vs.Spec.Hosts {
			if h = fqdn(h, vs.Namespace); !hostMatches(h, host) {
				continue
			}
			switch s := specificity(h); {
			case s > rank:
				best, rank = vs, s
			case s == rank && best != vs && h == host:
				rivals = append(rivals, claim{vs, i})
			}
		}
	}
	return best, rivals
}

func (b *builder) virtualServiceFor(host string) *resource.VirtualService {
	best, rivals := b.claims(host, b.node.Namespace)
	for _, r := range rivals {
		b.report(resource.Warning, &r.vs.Meta, at("spec.hosts", r.host), "sidecars use "+best.Origin().String()+" for "+host+"; they do not merge VirtualServices", "put the routes into one VirtualService")
	}
	return best
}

// Rivals are the VirtualServices that name a service in vain, seen from a
// namespace: another one names it as well and is older.
func (x *Index) Rivals(host, namespace string) []ir.Origin {
	_, rivals := x.claims(host, namespace)
	var out []ir.Origin
	for _, r := range rivals {
		out = append(out, r.vs.At(at("spec.hosts", r.host)))
	}
	return out
}

// boundTo reports whether gateways (default: mesh) name one, as "name" in the
// VirtualService's namespace or "ns/name".
func boundTo(gateways []string, want, namespace string) bool {
	if len(gateways) == 0 {
		return want == "mesh"
	}
	for _, g := range gateways {
		if g == want {
			return true
		}
		if g != "mesh" && !strings.Contains(g, "/") && namespace+"/"+g == want {
			return true
		}
	}
	return false
}

// hostOn reports whether host, exact or wildcard, covers a service with an HTTP
// port of that number among what an
// egress listener lets through.
func (e *egress) hostOn(host string, port uint16, from string) bool {
	for _, s := range e.services {
		if p := s.port(port); p != nil && s.newest(port, from).isHTTP() && hostMatches(host, s.host) {
			return true
		}
	}
	return false
}

func (e *egress) servedOn(vs *resource.VirtualService, port uint16, from string) bool {
	return slices.ContainsFunc(vs.Spec.Hosts, func(h string) bool { return e.hostOn(fqdn(h, vs.Namespace), port, from) })
}

// extraHosts are virtual hosts for hosts of VirtualServices that are no HTTP
// services on this port. As in Istio they hold on port 80, and on the ports of
// the services that the same VirtualService is for.
func (b *builder) extraHosts(e *egress, port uint16) []*ir.VirtualHost {
	var out []*ir.VirtualHost
	for _, vs := range b.set.VirtualServices {
		if len(vs.Spec.Http) == 0 || !boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) || !b.virtualServiceVisible(vs, b.node.Namespace) {
			continue
		}
		if port != 80 && !e.servedOn(vs, port, b.node.Namespace) {
			continue
		}
		for _, h := range vs.Spec.Hosts {
			host := fqdn(h, vs.Namespace)
			if host == "*" || e.hostOn(host, port, b.node.Namespace) {
				continue
			}
			routes, applied := b.httpRoutes(vs, port, "mesh")
			if !applied {
				continue
			}
			out = append(out, &ir.VirtualHost{Name: host + ":" + itoa(int(port)), Domains: []string{host}, Routes: routes, Origin: vs.Origin()})
		}
	}
	return out
}
