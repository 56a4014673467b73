package control

import "github.com/tulle-mesh/tulle/internal/resource"

// merge joins the sets of several sources, in their order. Objects keep their
// source's order; one source is passed through untouched.
func merge(sets []*resource.Set) *resource.Set {
	if len(sets) == 1 {
		return sets[0]
	}
	out := &resource.Set{}
	for _, s := range sets {
		if out.Mesh == nil && s.Mesh != nil {
			out.Mesh, out.MeshFrom = s.Mesh, s.MeshFrom
		}
		out.Roots = append(out.Roots, s.Roots...)
		out.VirtualServices = append(out.VirtualServices, s.VirtualServices...)
		out.DestinationRules = append(out.DestinationRules, s.DestinationRules...)
		out.Gateways = append(out.Gateways, s.Gateways...)
		out.ServiceEntries = append(out.ServiceEntries, s.ServiceEntries...)
		out.WorkloadEntries = append(out.WorkloadEntries, s.WorkloadEntries...)
		out.WorkloadGroups = append(out.WorkloadGroups, s.WorkloadGroups...)
		out.Sidecars = append(out.Sidecars, s.Sidecars...)
		out.PeerAuthentications = append(out.PeerAuthentications, s.PeerAuthentications...)
		out.AuthorizationPolicies = append(out.AuthorizationPolicies, s.AuthorizationPolicies...)
		out.RequestAuths = append(out.RequestAuths, s.RequestAuths...)
		out.Namespaces = append(out.Namespaces, s.Namespaces...)
		out.Services = append(out.Services, s.Services...)
		out.ServiceAccounts = append(out.ServiceAccounts, s.ServiceAccounts...)
		out.ConfigMaps = append(out.ConfigMaps, s.ConfigMaps...)
		out.Secrets = append(out.Secrets, s.Secrets...)
		out.Deployments = append(out.Deployments, s.Deployments...)
		out.StatefulSets = append(out.StatefulSets, s.StatefulSets...)
		out.Jobs = append(out.Jobs, s.Jobs...)
		out.Local = append(out.Local, s.Local...)
		out.Workloads = append(out.Workloads, s.Workloads...)
		out.Denied = append(out.Denied, s.Denied...)
		out.BrokenRego = append(out.BrokenRego, s.BrokenRego...)
		out.PassedOver = append(out.PassedOver, s.PassedOver...)
	}
	return out
}
