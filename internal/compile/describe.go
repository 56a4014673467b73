package compile

import (
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// ServiceView is what of the configuration concerns a service, as callers of
// its own namespace meet it.
type ServiceView struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	Host      string         `json:"host"`
	Address   string         `json:"address,omitempty"`
	Origin    ir.Origin      `json:"origin"`
	Ports     []PortView     `json:"ports"`
	Endpoints []EndpointView `json:"endpoints"`
	Routes    []RouteView    `json:"virtualServices"`
	Rules     []RuleView     `json:"destinationRules"`
	// Policies and Problems are of the service's workloads together; nil within a
	// WorkloadView, which has its own.
	Policies []PolicyView       `json:"policies,omitempty"`
	Problems []resource.Problem `json:"problems,omitempty"`
}

// PortView is a port of a service. Modes has several entries where its workloads
// are not of one mind.
type PortView struct {
	Port     uint16     `json:"port"`
	Name     string     `json:"name,omitempty"`
	Protocol string     `json:"protocol,omitempty"` // this and Target are a Service's, not a Pod's
	Target   string     `json:"targetPort,omitempty"`
	Modes    []ModeView `json:"mtls,omitempty"`
}

// NoSidecar is the mode of a port that no proxy guards.
const NoSidecar = "NO SIDECAR"

// ModeView is a mutual TLS mode in force, and the line that says so.
type ModeView struct {
	Mode   string    `json:"mode"`
	Origin ir.Origin `json:"origin,omitzero"` // zero: Istio's default
}

// EndpointView is a workload behind a service, with the ports it is called on.
type EndpointView struct {
	Workload string   `json:"workload"`
	Address  string   `json:"address"`
	Ports    []uint16 `json:"ports"`
	Ready    bool     `json:"ready"`
	Sidecar  bool     `json:"sidecar"`
}

// WorkloadView is what of the configuration concerns one instance.
type WorkloadView struct {
	Namespace string             `json:"namespace"`
	Name      string             `json:"name"`
	Owner     string             `json:"owner,omitempty"` // KIND/NAME
	Address   string             `json:"address,omitempty"`
	Identity  string             `json:"identity,omitempty"` // "": it has no proxy
	Ready     bool               `json:"ready"`
	Ports     []PortView         `json:"ports"`
	Policies  []PolicyView       `json:"policies"`
	Services  []*ServiceView     `json:"services"` // of which it is an endpoint, as if it were the only one
	Problems  []resource.Problem `json:"problems"`
}

// DescribeServices describes what a name means as a caller in its namespace
// writes it: "worker", "worker.ns", a full name, an address. Namespace "" is any.
func (x *Index) DescribeServices(name, namespace string) []*ServiceView {
	var out []*ServiceView
	for _, s := range x.services {
		if (namespace == "" || s.Namespace == namespace) && slices.Contains(s.domains(s.Namespace), name) {
			v := x.describeService(s, s.everywhere())
			v.Policies, v.Problems = x.policiesOf(s.everywhere()), x.serviceProblems(s, v)
			out = append(out, v)
		}
	}
	return out
}

// ServiceNames are those that DescribeServices knows, as NAME.NAMESPACE or a
// host outside.
func (x *Index) ServiceNames() []string {
	var out []string
	for _, s := range x.services {
		if s.entry != nil {
			out = append(out, s.host)
		} else {
			out = append(out, s.Name+"."+s.Namespace)
		}
	}
	return out
}

// DescribeWorkload describes one of the set's instances.
func (x *Index) DescribeWorkload(w *resource.Workload) *WorkloadView {
	only := []*resource.Workload{w}
	v := &WorkloadView{Namespace: w.Namespace, Name: w.Name, Ready: w.Ready, Ports: []PortView{}, Services: []*ServiceView{}, Policies: x.policiesOf(only)}
	if w.Address.IsValid() {
		v.Address = w.Address.String()
	}
	if w.Owner != "" {
		v.Owner = w.OwnerKind + "/" + w.Owner
	}
	if w.Sidecar || w.Gateway {
		v.Identity = x.principal(w)
	}
	for _, p := range w.Ports {
		pv := PortView{Port: p.Port, Name: p.Name}
		if !w.Gateway { // whose servers say what they ask of clients
			pv.Modes = []ModeView{x.modeOf(w, p.Port)}
		}
		v.Ports = append(v.Ports, pv)
	}
	for _, s := range x.services {
		if slices.Contains(s.instances, w) {
			sv := x.describeService(s, only)
			for i := range sv.Rules {
				sv.Rules[i].Subsets = slices.DeleteFunc(sv.Rules[i].Subsets, func(s SubsetView) bool { return s.Workloads == 0 })
			}
			v.Services = append(v.Services, sv)
		}
	}
	return v
}

// describeService describes a service of which only some instances count.
func (x *Index) describeService(s *service, instances []*resource.Workload) *ServiceView {
	v := &ServiceView{Namespace: s.Namespace, Name: s.Name, Host: s.host, Origin: s.Origin(), Ports: []PortView{}, Endpoints: []EndpointView{}, Routes: x.routesOf(s), Rules: x.rulesFor(s, instances)}
	if s.vip.IsValid() {
		v.Address = s.vip.String()
	}
	ports := map[*resource.Workload][]uint16{}
	for i := range s.ports {
		p := &s.ports[i]
		pv := PortView{Port: p.number, Name: p.name, Protocol: p.protocol.String(), Target: p.target.String()}
		for w, n := range s.behind(p) {
			if n == 0 || !slices.Contains(instances, w) {
				continue
			}
			if !slices.Contains(ports[w], n) {
				ports[w] = append(ports[w], n)
			}
			if m := x.modeOf(w, n); !s.external && !slices.Contains(pv.Modes, m) {
				pv.Modes = append(pv.Modes, m)
			}
		}
		v.Ports = append(v.Ports, pv)
	}
	for _, w := range instances {
		e := EndpointView{Workload: w.Name, Address: w.Host, Ports: ports[w], Ready: w.Ready, Sidecar: w.Sidecar}
		if w.Address.IsValid() {
			e.Address = w.Address.String()
		}
		v.Endpoints = append(v.Endpoints, e)
	}
	return v
}

// modeOf is the mode in force at a port of an instance.
func (x *Index) modeOf(w *resource.Workload, port uint16) ModeView {
	if !w.Sidecar {
		return ModeView{Mode: NoSidecar}
	}
	mode, origin := x.PeerMode(w.Namespace, w.Labels, port)
	return ModeView{mode, origin}
}

// serviceProblems are why a caller of the service gets no answer.
func (x *Index) serviceProblems(s *service, v *ServiceView) []resource.Problem {
	out := []resource.Problem{}
	warn := func(origin ir.Origin, path, reason, hint string) {
		out = append(out, resource.Problem{Severity: resource.Warning, Origin: origin, Path: path, Reason: reason, Hint: hint})
	}
	if s.external { // its endpoints may be DNS's alone
		return out
	}
	if len(v.Endpoints) == 0 {
		warn(s.At("spec.selector"), "spec.selector", "it selects no workload", "compare it with the labels of the Pod templates")
		return out
	}
	if !slices.ContainsFunc(v.Endpoints, func(e EndpointView) bool { return e.Ready }) {
		warn(s.Origin(), "", "none of its workloads is ready", "tulle logs "+v.Endpoints[0].Workload)
	}
	rule := x.callersRule(s)
	for i, p := range v.Ports {
		if len(p.Modes) == 0 { // nobody has it
			path := at("spec.ports", i, "targetPort")
			warn(s.At(path), path, "none of its workloads has a container port named "+p.Target, "")
		}
		strict := slices.IndexFunc(p.Modes, func(m ModeView) bool { return m.Mode == string(modeStrict) })
		client := x.policyFor(rule, p.Port, nil)
		if strict >= 0 && client.tls != nil && (client.tls.Mode == networking.ClientTLSSettings_DISABLE || client.tls.Mode == networking.ClientTLSSettings_SIMPLE) {
			warn(client.tlsAt, client.tlsPath, "callers of port "+itoa(int(p.Port))+" of "+s.Name+" show no certificate, and "+p.Modes[strict].Origin.String()+" makes it STRICT: they are refused", "leave tls out, or make it ISTIO_MUTUAL")
		}
	}
	return out
}
