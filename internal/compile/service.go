package compile

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// protocol of a service port, as far as compiling differs.
type protocol int

const (
	protoAuto protocol = iota // not said: sniff
	protoHTTP
	protoTCP
)

// service is one Kubernetes Service with its instances.
type service struct {
	*resource.Service
	host      string // FQDN
	vip       netip.Addr
	headless  bool
	ports     []servicePort
	instances []*resource.Workload
}

type servicePort struct {
	number   uint16
	name     string
	target   intstr.IntOrString
	protocol protocol
	tls      bool // the bytes are TLS of the application's own
}

func (x *Index) indexServices() {
	for _, s := range x.set.Services {
		spec := s.Spec.Spec
		if spec.Type == corev1.ServiceTypeExternalName {
			x.report(resource.Error, &s.Meta, "spec.type", "ExternalName is not supported yet; the service is not in the mesh", "")
			continue
		}
		svc := &service{Service: s, host: s.Name + "." + s.Namespace + ".svc." + clusterDomain, headless: spec.ClusterIP == corev1.ClusterIPNone}
		if addr, err := netip.ParseAddr(spec.ClusterIP); err == nil {
			svc.vip = addr
		}
		for i, p := range spec.Ports {
			if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP || protocolWord(p) == "udp" {
				continue // UDP is not redirected, as in Istio
			}
			sp := servicePort{number: uint16(p.Port), name: p.Name, target: p.TargetPort}
			if sp.target.IntValue() == 0 && sp.target.StrVal == "" {
				sp.target = intstr.FromInt32(p.Port)
			}
			sp.protocol, sp.tls = x.protocolOf(s, i, p), isTLSPort(p)
			svc.ports = append(svc.ports, sp)
		}
		if len(spec.Selector) > 0 {
			for _, w := range x.set.Workloads {
				if w.Namespace == s.Namespace && subset(spec.Selector, w.Labels) {
					svc.instances = append(svc.instances, w)
				}
			}
		}
		x.services = append(x.services, svc)
		x.byHost[svc.host] = svc
	}
}

// protocolWord is what a port says of its protocol: appProtocol, or the first
// word of its name.
func protocolWord(p corev1.ServicePort) string {
	name := strings.ToLower(p.Name)
	if p.AppProtocol != nil {
		return strings.TrimPrefix(strings.ToLower(*p.AppProtocol), "kubernetes.io/")
	}
	if strings.HasPrefix(name, "grpc-web") {
		return "grpc-web"
	}
	word, _, _ := strings.Cut(name, "-")
	return word
}

// protocolOf follows Istio's protocol selection: appProtocol, then the port
// name's first word; anything else is found out by sniffing.
func (x *Index) protocolOf(s *resource.Service, i int, p corev1.ServicePort) protocol {
	switch protocolWord(p) {
	case "http", "ws":
		return protoHTTP
	case "http2", "h2c", "grpc", "grpc-web":
		x.report(resource.Warning, &s.Meta, at("spec.ports", i), "HTTP/2 and gRPC are forwarded as TCP for now: mutual TLS and policies on identities hold, routing and policies on requests do not", "")
		return protoTCP
	case "tcp", "redis", "mongo", "mysql", "https", "tls", "postgres", "udp":
		return protoTCP
	}
	return protoAuto
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
	for _, e := range exportTo {
		if e == "*" || e == to || e == "." && from == to {
			return true
		}
	}
	return false
}

func (s *service) exportedTo(ns string) bool {
	v := s.Annotations["networking.istio.io/exportTo"]
	if v == "" {
		return true
	}
	return visible(strings.Split(strings.ReplaceAll(v, " ", ""), ","), s.Namespace, ns)
}

// domains are the Host headers that mean this service, seen from a namespace
// (Istio's generateVirtualHostDomains). Ports are stripped before comparing,
// so they need no entries of their own.
func (s *service) domains(from string) []string {
	d := []string{s.host, s.host + "."} // the second is what a resolver's absolute name looks like
	if s.Namespace == from {
		d = append(d, s.Name)
	}
	d = append(d, s.Name+"."+s.Namespace, s.Name+"."+s.Namespace+".svc")
	if s.vip.IsValid() {
		if s.vip.Is6() {
			d = append(d, "["+s.vip.String()+"]") // as a Host header has it
		} else {
			d = append(d, s.vip.String())
		}
	}
	if s.headless {
		d = append(d, "*."+s.host)
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

// sans are the identities of a service's instances, for the client to expect.
func (x *Index) sans(s *service) []ir.Match {
	var uris []string
	for _, w := range s.instances {
		if p := x.principal(w); w.Sidecar && !slices.Contains(uris, p) {
			uris = append(uris, p)
		}
	}
	slices.Sort(uris)
	var out []ir.Match
	for _, u := range uris {
		out = append(out, ir.Match{Kind: ir.Exact, Value: u})
	}
	return out
}
