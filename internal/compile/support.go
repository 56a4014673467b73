package compile

import (
	"net/netip"
	"slices"

	meshv1 "istio.io/api/mesh/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// checkSupport names every field of the set that Istio knows and this compiler
// does not yet, so that nothing a user wrote is silently ignored.
func (x *Index) checkSupport() {
	for _, g := range x.set.WorkloadGroups {
		x.report(resource.Error, &g.Meta, "kind", "workloads do not register themselves yet; the template is not used", "write a WorkloadEntry for each")
	}
	for _, r := range x.set.RequestAuths {
		x.checkRequestAuth(r)
	}
	x.refuse(&x.set.MeshFrom, map[string]bool{
		"data.mesh.serviceEntryVisibility":     x.mesh.ServiceEntryVisibility != nil,
		"data.mesh.outboundTrafficPolicy.mode": x.mesh.GetOutboundTrafficPolicy().GetMode() > meshv1.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY, // dynamic DNS
	})
	x.checkTrust()
	x.checkParameters()
	for _, vs := range x.set.VirtualServices {
		x.checkVirtualService(vs)
	}
	for _, dr := range x.set.DestinationRules {
		x.checkDestinationRule(dr)
	}
	for _, p := range x.set.AuthorizationPolicies {
		x.checkPrincipals(p)
		x.checkTargets(&p.Meta, p.Spec)
	}
	x.checkReferences()
	x.checkPolicies()
	for _, g := range x.set.Gateways {
		for i, s := range g.Spec.Servers {
			x.refuse(&g.Meta, map[string]bool{
				at("spec.servers", i, "defaultEndpoint"):        s.DefaultEndpoint != "",
				at("spec.servers", i, "tls.insecureSkipVerify"): s.Tls.GetInsecureSkipVerify().GetValue(),
			})
		}
	}
}

// refuse reports the paths whose field is set.
func (x *Index) refuse(m *resource.Meta, fields map[string]bool) {
	for _, path := range sortedKeys(fields) {
		if fields[path] {
			x.unsupported(m, path)
		}
	}
}

// checkVirtualService names http routes that sidecars use on port 80 only,
// because no service says which ports their hosts have.
func (x *Index) checkVirtualService(vs *resource.VirtualService) {
	known := slices.ContainsFunc(x.services, func(s *service) bool { return namesHost(vs, s.host) })
	if len(x.services) > 0 && len(vs.Spec.Http) > 0 && len(vs.Spec.Hosts) > 0 && !known && boundTo(vs.Spec.Gateways, "mesh", vs.Namespace) {
		x.report(resource.Warning, &vs.Meta, "spec.hosts", "none of the hosts is a service: sidecars use the routes on port 80 only, as in Istio", "declare the hosts with a ServiceEntry")
	}
}

// Workload finds the first instance that a name means (resource.Named); nil for
// none.
func (x *Index) Workload(name string) *resource.Workload {
	if found := resource.Named(x.set.Workloads, name, (*resource.Workload).Naming); len(found) > 0 {
		return found[0]
	}
	return nil
}

// Node is the proxy of an instance.
func (x *Index) Node(w *resource.Workload) ir.Node {
	role := ir.Sidecar
	if w.Gateway {
		role = ir.Router
	}
	return ir.Node{Type: role, Name: w.Name, Namespace: w.Namespace, IPs: []string{w.Address.String()}, Labels: w.Labels,
		ServiceAccount: w.ServiceAccount, WorkloadName: w.Owner, TrustDomain: x.TrustDomain()}
}

// serviceFor resolves a host as a caller in namespace writes it, short or full.
func (x *Index) serviceFor(host, namespace string) *service {
	for _, s := range x.services {
		if s.host == host || slices.Contains(s.domains(namespace), host) {
			return s
		}
	}
	return nil
}

// ServicePorts lists the ports of the service that a caller in namespace means
// by host; nil for an unknown one.
func (x *Index) ServicePorts(host, namespace string) []uint16 {
	s := x.serviceFor(host, namespace)
	if s == nil {
		return nil
	}
	var out []uint16
	for i := range s.ports {
		out = append(out, s.ports[i].number)
	}
	return out
}

// ServiceAddress is the service's own address; the zero Addr when it has none,
// or one that only a sidecar's name server answers with.
func (x *Index) ServiceAddress(host, namespace string) netip.Addr {
	if s := x.serviceFor(host, namespace); s != nil && !s.allocated {
		return s.vip
	}
	return netip.Addr{}
}
