package compile

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// service is a host that can be called: a Kubernetes Service, or one host of a
// ServiceEntry.
type service struct {
	*resource.Meta
	host      string       // FQDN; of a ServiceEntry perhaps "*.suffix"
	vip       netip.Addr   // the first of vips
	vips      []netip.Addr // its own addresses
	cidrs     []netip.Prefix
	allocated bool // vips were chosen by us: only our DNS answers with them
	headless  bool
	external  bool // outside the mesh: no mutual TLS unless told
	entry     *networking.ServiceEntry
	exportTo  []string
	sans      []string // identities that a ServiceEntry expects
	aliases   []*service
	aliasOf   string // an ExternalName's host
	ports     []servicePort
	instances []*resource.Workload
	clusterOf ir.ClusterType // where its endpoints come from
	siblings  []*service     // ServiceEntries of one namespace with this host, oldest first and itself included; nil: no others
}

type servicePort struct {
	number   uint16
	name     string
	target   intstr.IntOrString
	protocol protocol
}

func (x *Index) indexServices() {
	x.workloads = append(append(x.workloads, x.set.Workloads...), x.entryWorkloads()...)
	for _, s := range x.set.Services {
		spec := s.Spec.Spec
		svc := &service{Meta: &s.Meta, host: s.Name + "." + s.Namespace + ".svc." + clusterDomain, clusterOf: ir.EDS,
			headless: spec.ClusterIP == corev1.ClusterIPNone, exportTo: x.serviceExportTo(s.Annotations["networking.istio.io/exportTo"])}
		if spec.Type == corev1.ServiceTypeExternalName {
			svc.aliasOf = strings.ToLower(strings.TrimSuffix(spec.ExternalName, "."))
			x.externalNames = append(x.externalNames, svc)
			continue
		}
		svc.setAddresses(append([]string{spec.ClusterIP}, spec.ClusterIPs...))
		for _, p := range spec.Ports {
			if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP || protocolOf(p) == protoUDP {
				continue // UDP is not redirected, as in Istio
			}
			sp := servicePort{number: uint16(p.Port), name: p.Name, target: p.TargetPort}
			if sp.target.IntValue() == 0 && sp.target.StrVal == "" {
				sp.target = intstr.FromInt32(p.Port)
			}
			sp.protocol = protocolOf(p)
			svc.ports = append(svc.ports, sp)
		}
		svc.choose(x.workloads, spec.Selector)
		x.services = append(x.services, svc)
		x.byHost[svc.host] = svc
	}
	x.indexEntries()
	x.indexExternalNames()
}

// setAddresses takes what parses ("None" does not), each once.
func (s *service) setAddresses(list []string) {
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(s.vips, a) {
			s.vips = append(s.vips, a)
		}
	}
	if len(s.vips) > 0 {
		s.vip = s.vips[0]
	}
}

// choose makes the workloads of the namespace that carry the labels instances;
// no selector chooses none.
func (s *service) choose(workloads []*resource.Workload, selector map[string]string) {
	if len(selector) == 0 {
		return
	}
	for _, w := range workloads {
		if w.Namespace == s.Namespace && subset(selector, w.Labels) {
			s.instances = append(s.instances, w)
		}
	}
}

// indexExternalNames gives a service that is only another name for a host to
// that host, as an alias; the name of a host that nobody declared is DNS's
// alone, and its connections are to an unknown destination.
func (x *Index) indexExternalNames() {
	for _, alias := range x.externalNames {
		for hops := 0; alias.aliasOf != "" && hops < 8; hops++ {
			next := slices.IndexFunc(x.externalNames, func(s *service) bool { return s.host == alias.aliasOf && s != alias })
			if next < 0 {
				break
			}
			alias.aliasOf = x.externalNames[next].aliasOf
		}
		if to := x.byHost[alias.aliasOf]; to != nil {
			to.aliases = append(to.aliases, alias)
		}
	}
}

// protocolOf takes appProtocol, else the port's name.
func protocolOf(p corev1.ServicePort) protocol {
	if p.Protocol == corev1.ProtocolUDP {
		return protoUDP
	}
	name := p.Name
	if p.AppProtocol != nil {
		name = *p.AppProtocol
	}
	return parseProtocol(name, uint16(p.Port))
}

// subset reports whether every label of want is in have.
func subset(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// portOn is the port behind a service port on one instance; 0 if it has none.
func (p *servicePort) portOn(w *resource.Workload) uint16 {
	if n := w.PortMap[p.name]; n != 0 {
		return n
	}
	if p.target.Type == intstr.Int {
		return uint16(p.target.IntVal)
	}
	for _, wp := range w.Ports {
		if wp.Name == p.target.StrVal {
			return wp.Port
		}
	}
	return 0
}

// endpointAddress is where an instance takes connections; "" if nowhere.
func endpointAddress(w *resource.Workload, port uint16) string {
	switch {
	case strings.HasPrefix(w.Host, "unix:"):
		return w.Host
	case port == 0:
		return ""
	case w.Host != "":
		return joinHostPort(w.Host, port)
	case w.Address.IsValid():
		return joinHostPort(w.Address.String(), port)
	}
	return ""
}

func (s *service) port(number uint16) *servicePort {
	for i := range s.ports {
		if s.ports[i].number == number {
			return &s.ports[i]
		}
	}
	return nil
}

// visible reports whether an object exported to exportTo in namespace from can
// be seen from namespace to. Empty means everywhere.
func visible(exportTo []string, from, to string) bool {
	if len(exportTo) == 0 {
		return true
	}
	for _, e := range exportTo { // "~" is nowhere
		if e == "*" || e == to || e == "." && from == to {
			return true
		}
	}
	return false
}

// serviceExportTo splits the annotation of a Service; without it the mesh's
// default holds.
func (x *Index) serviceExportTo(annotation string) []string {
	if annotation == "" {
		return x.mesh.DefaultServiceExportTo
	}
	return strings.Split(strings.ReplaceAll(annotation, " ", ""), ",")
}

func (s *service) exportedTo(ns string) bool { return visible(s.exportTo, s.Namespace, ns) }

// shortName is how metrics call it.
func (s *service) shortName() string {
	if s.entry != nil {
		return s.host
	}
	return s.Name
}

// domains are the Host headers that mean this service, seen from a namespace
// (Istio's generateVirtualHostDomains). Ports are stripped before comparing,
// so they need no entries of their own.
func (s *service) domains(from string) []string {
	d := []string{s.host, s.host + "."} // the second is what a resolver's absolute name looks like
	if s.entry == nil {
		if s.Namespace == from {
			d = append(d, s.Name)
		}
		d = append(d, s.Name+"."+s.Namespace, s.Name+"."+s.Namespace+".svc")
	}
	for _, a := range s.vips {
		if a.Is6() {
			d = append(d, "["+a.String()+"]") // as a Host header has it
		} else {
			d = append(d, a.String())
		}
	}
	if s.headless { // also its instances by name
		for _, name := range slices.Clone(d) {
			d = append(d, "*."+name)
		}
	}
	for _, a := range s.aliases {
		if a.exportedTo(from) {
			d = append(d, a.domains(from)...)
		}
	}
	return d
}

// fqdn resolves a host as VirtualServices and DestinationRules write it (X1).
func fqdn(host, namespace string) string {
	if host == "*" || strings.Contains(host, ".") {
		return host
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	return host + "." + namespace + ".svc." + clusterDomain
}

// hostMatches reports whether pattern (exact or "*.suffix") covers host.
func hostMatches(pattern, host string) bool {
	switch {
	case pattern == "*" || pattern == host:
		return true
	case strings.HasPrefix(pattern, "*."):
		return strings.HasSuffix(host, pattern[1:])
	}
	return false
}

// specificity orders patterns: exact over longer wildcard over shorter.
func specificity(pattern string) int {
	if strings.HasPrefix(pattern, "*") {
		return len(pattern)
	}
	return 1 << 16
}

// workloadRef names an instance for metrics.
func (x *Index) workloadRef(w *resource.Workload) ir.WorkloadRef {
	first := func(fallback string, keys ...string) string {
		for _, k := range keys {
			if v := w.Labels[k]; v != "" {
				return v
			}
		}
		return fallback
	}
	return ir.WorkloadRef{
		Workload: w.Owner, Instance: w.Name, Namespace: w.Namespace, Principal: x.principal(w),
		App: w.Labels["app"], Version: w.Labels["version"], ClusterID: w.ClusterID,
		CanonicalService:  first(w.Owner, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app"),
		CanonicalRevision: first("latest", "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"),
	}
}

func (x *Index) principal(w *resource.Workload) string {
	return ir.Node{TrustDomain: x.TrustDomain(), Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}.Principal()
}

// clusterName is Istio's: direction|port|subset|host.
func clusterName(direction string, port uint16, subset, host string) string {
	return direction + "|" + itoa(int(port)) + "|" + subset + "|" + host
}

// sans are the identities that the client expects: those a ServiceEntry names,
// and those of the instances.
func (x *Index) sans(s *service) []ir.Match {
	uris := slices.Clone(s.sans)
	for _, w := range s.everywhere() {
		if p := x.principal(w); w.Sidecar && !slices.Contains(uris, p) {
			uris = append(uris, p)
		}
	}
	var out []ir.Match
	for _, u := range x.expandIdentities(uris) {
		out = append(out, ir.Match{Kind: ir.Exact, Value: u})
	}
	return out
}
