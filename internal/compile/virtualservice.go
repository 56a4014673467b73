package compile

import (
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

// virtualServiceFor finds the VirtualService that sidecars use for a host: the
// most specific host, the oldest of equals; sidecars never merge (VS5).
func (b *builder) virtualServiceFor(host string) *resource.VirtualService {
	var best *resource.VirtualService
	rank := -1
	for _, vs := range b.set.VirtualServices {
		if !boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) || !b.virtualServiceVisible(vs, b.node.Namespace) {
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
				b.report(resource.Warning, &vs.Meta, at("spec.hosts", i), "sidecars use "+best.Origin().String()+" for "+host+"; they do not merge VirtualServices", "put the routes into one VirtualService")
			}
		}
	}
	return best
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

// extraHosts are virtual hosts for hosts of VirtualServices that are no
// services.
func (b *builder) extraHosts(port uint16) []*ir.VirtualHost {
	var out []*ir.VirtualHost
	for _, vs := range b.set.VirtualServices {
		if len(vs.Spec.Http) == 0 || !boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) || !b.virtualServiceVisible(vs, b.node.Namespace) {
			continue
		}
		for _, h := range vs.Spec.Hosts {
			host := fqdn(h, vs.Namespace)
			if b.byHost[host] != nil || host == "*" {
				continue
			}
			routes, applied := b.httpRoutes(vs, port, "mesh")
			if !applied {
				continue
			}
			domains := []string{host}
			if h != host {
				domains = append(domains, h)
			}
			out = append(out, &ir.VirtualHost{Name: host + ":" + itoa(int(port)), Domains: domains, Routes: routes, Origin: vs.Origin()})
		}
	}
	return out
}
