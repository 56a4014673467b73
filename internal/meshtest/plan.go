package meshtest

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// assign gives services without an address one, always the same for a name.
func (w *world) assign(set *resource.Set) {
	for i, s := range set.Services {
		if s.Spec.Spec.ClusterIP != "" || s.Spec.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		key := s.Namespace + "/" + s.Name
		if !w.vips[key].IsValid() {
			n := len(w.vips) + 1
			w.vips[key] = netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)})
		}
		c := *s
		c.Spec = s.Spec.DeepCopy()
		c.Spec.Spec.ClusterIP = w.vips[key].String()
		set.Services[i] = &c
	}
}

// workloads lists the instances of every Deployment and StatefulSet.
func (w *world) workloads(set *resource.Set) []*resource.Workload {
	var out []*resource.Workload
	add := func(m *resource.Meta, replicas *int32, t *corev1.PodTemplateSpec) {
		n := 1
		if replicas != nil {
			n = int(*replicas)
		}
		for i := range n {
			wl := w.instance(set, m, fmt.Sprintf("%s-%d", m.Name, i), t)
			if !w.gone[wl.Name] {
				out = append(out, wl)
			}
		}
	}
	for _, d := range set.Deployments {
		add(&d.Meta, d.Spec.Spec.Replicas, &d.Spec.Spec.Template)
	}
	for _, s := range set.StatefulSets {
		add(&s.Meta, s.Spec.Spec.Replicas, &s.Spec.Spec.Template)
	}
	return out
}

func (w *world) instance(set *resource.Set, m *resource.Meta, name string, t *corev1.PodTemplateSpec) *resource.Workload {
	if !w.addresses[name].IsValid() {
		n := len(w.addresses) + 1
		w.addresses[name] = netip.AddrFrom4([4]byte{10, 244, byte(n / 250), byte(2 + n%250)})
	}
	wl := &resource.Workload{
		Name: name, Namespace: m.Namespace, Owner: m.Name, OwnerKind: m.Kind, Labels: t.Labels, Annotations: t.Annotations,
		ServiceAccount: t.Spec.ServiceAccountName, Address: w.addresses[name], ClusterID: "Kubernetes",
		Ready: !w.unready[name], Locality: resource.PodLocality(t.Labels), Gateway: t.Annotations["inject.istio.io/templates"] == "gateway",
	}
	if wl.ServiceAccount == "" {
		wl.ServiceAccount = "default"
	}
	wl.Sidecar = !wl.Gateway && injected(set, m.Namespace, t)
	for _, c := range t.Spec.Containers {
		for _, p := range c.Ports {
			wl.Ports = append(wl.Ports, resource.WorkloadPort{Name: p.Name, Port: uint16(p.ContainerPort)})
		}
	}
	return wl
}

// injected decides as Istio's webhook: the pod's own word, then its namespace.
func injected(set *resource.Set, namespace string, t *corev1.PodTemplateSpec) bool {
	for _, m := range []map[string]string{t.Labels, t.Annotations} {
		if v, ok := m["sidecar.istio.io/inject"]; ok {
			return v == "true"
		}
	}
	for _, ns := range set.Namespaces {
		if ns.Name == namespace {
			if v, ok := ns.Labels["istio-injection"]; ok {
				return v == "enabled"
			}
			return ns.Labels["istio.io/rev"] != ""
		}
	}
	return false
}

// targets are a workload's ports behind the services that select it.
func (w *world) eachTarget(f func(s *resource.Service, p corev1.ServicePort, wl *resource.Workload, target uint16)) {
	for _, s := range w.set.Services {
		if len(s.Spec.Spec.Selector) == 0 {
			continue
		}
		for _, wl := range w.set.Workloads {
			if wl.Namespace != s.Namespace || !selects(s.Spec.Spec.Selector, wl.Labels) {
				continue
			}
			for _, p := range s.Spec.Spec.Ports {
				if t := targetPort(p, wl); t != 0 {
					f(s, p, wl, t)
				}
			}
		}
	}
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func targetPort(p corev1.ServicePort, wl *resource.Workload) uint16 {
	if n := p.TargetPort.IntValue(); n != 0 {
		return uint16(n)
	}
	if p.TargetPort.StrVal == "" {
		return uint16(p.Port)
	}
	for _, wp := range wl.Ports {
		if wp.Name == p.TargetPort.StrVal {
			return wp.Port
		}
	}
	return 0
}

// translate tells the network the service addresses.
func (w *world) translate() {
	services := map[netip.AddrPort][]netip.AddrPort{}
	for _, s := range w.set.Services {
		vip, err := netip.ParseAddr(s.Spec.Spec.ClusterIP)
		if err != nil {
			continue
		}
		for _, p := range s.Spec.Spec.Ports {
			services[netip.AddrPortFrom(vip, uint16(p.Port))] = nil
		}
	}
	w.eachTarget(func(s *resource.Service, p corev1.ServicePort, wl *resource.Workload, target uint16) {
		if vip, err := netip.ParseAddr(s.Spec.Spec.ClusterIP); err == nil && wl.Ready {
			at := netip.AddrPortFrom(vip, uint16(p.Port))
			services[at] = append(services[at], netip.AddrPortFrom(wl.Address, target))
		}
	})
	w.net.mu.Lock()
	w.net.services = services
	w.net.mu.Unlock()
}

// appPorts are the ports an application serves, with what it speaks there:
// what the container port's name says, else the service port's.
func (w *world) appPorts(wl *resource.Workload) map[uint16]string {
	ports := map[uint16]string{}
	said := map[uint16]bool{}
	for _, p := range wl.Ports {
		ports[p.Port] = spoken(p.Name)
		said[p.Port] = ports[p.Port] != "http" || strings.HasPrefix(p.Name, "http") || strings.HasPrefix(p.Name, "grpc")
	}
	w.eachTarget(func(_ *resource.Service, p corev1.ServicePort, x *resource.Workload, target uint16) {
		if x == wl && !said[target] {
			name := p.Name
			if p.AppProtocol != nil {
				name = *p.AppProtocol
			}
			ports[target] = spoken(name)
		}
	})
	return ports
}

var httpPorts = regexp.MustCompile(`\b(name|targetPort): http([,}])`)

// ports names the ports called http after what the script's applications speak.
func (p protocol) ports(yaml string) string {
	switch p {
	case overHTTP2, overGRPC:
		return httpPorts.ReplaceAllString(yaml, "${1}: "+string(p)+"${2}")
	}
	return yaml
}

// spoken is http, https, tcp or tls.
func spoken(name string) string {
	word, _, _ := strings.Cut(strings.ToLower(name), "-")
	switch word {
	case "tcp", "redis", "mongo", "mysql", "postgres":
		return "tcp"
	case "tls", "https":
		return word
	}
	return "http"
}

// resolve is the cluster's name server, as a pod of the namespace uses it.
func (w *world) resolve(name, namespace string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a, nil
	}
	if p := w.pods[name]; p != nil {
		return p.Address, nil
	}
	if e := w.externals[name]; e != nil {
		return e.Address, nil
	}
	for _, s := range w.set.Services {
		full := s.Name + "." + s.Namespace
		if name != full && name != full+".svc" && name != full+".svc.cluster.local" && (name != s.Name || s.Namespace != namespace) {
			continue
		}
		if vip, err := netip.ParseAddr(s.Spec.Spec.ClusterIP); err == nil {
			return vip, nil
		}
		for _, wl := range w.set.Workloads { // headless: an instance's own address
			if wl.Namespace == s.Namespace && wl.Ready && selects(s.Spec.Spec.Selector, wl.Labels) {
				return wl.Address, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("no such host: %s", name)
}

// answered is what the name server of the pod's sidecar says of a host; the
// zero Addr leaves it to the cluster's.
func (p *pod) answered(host string) netip.Addr {
	if p.proxy == nil || p.proxy.Snapshot() == nil {
		return netip.Addr{}
	}
	for _, l := range p.proxy.Snapshot().Listeners {
		if l.DNS == nil {
			continue
		}
		for _, n := range l.DNS.Names {
			if n.Host == host {
				return n.Addresses[0]
			}
		}
	}
	return netip.Addr{}
}

// gateway is the gateway that requests from outside go through.
func (w *world) gateway() *pod {
	for _, wl := range w.set.Workloads {
		if wl.Gateway {
			return w.pods[wl.Name]
		}
	}
	return nil
}
