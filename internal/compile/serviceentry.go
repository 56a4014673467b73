package compile

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// indexEntries adds the hosts of ServiceEntries to the services.
func (x *Index) indexEntries() {
	for _, se := range x.set.ServiceEntries {
		if se.Spec.Resolution == networking.ServiceEntry_DYNAMIC_DNS {
			x.report(resource.Error, &se.Meta, "spec.resolution", "DYNAMIC_DNS is not supported yet; the hosts are not in the mesh", "use NONE for connections to addresses that the caller resolved")
			continue
		}
		for _, host := range se.Spec.Hosts {
			host = strings.ToLower(host)
			have := x.byHost[host]
			if have != nil && have.entry == nil { // a decorator of a Kubernetes service (SE2)
				have.sans = append(have.sans, se.Spec.SubjectAltNames...)
				continue
			}
			s := x.entryService(se, host)
			x.conflicts(se, s)
			x.services = append(x.services, s)
			x.unite(s)
			if have == nil {
				x.byHost[host] = s
			}
		}
	}
	x.allocate()
}

func (x *Index) entryService(se *resource.ServiceEntry, host string) *service {
	spec := se.Spec
	s := &service{Meta: &se.Meta, host: host, entry: spec, external: spec.Location == networking.ServiceEntry_MESH_EXTERNAL,
		exportTo: spec.ExportTo, sans: spec.SubjectAltNames, clusterOf: ir.OriginalDst}
	if len(s.exportTo) == 0 {
		s.exportTo = x.mesh.DefaultServiceExportTo
	}
	switch spec.Resolution {
	case networking.ServiceEntry_STATIC:
		s.clusterOf = ir.EDS
	case networking.ServiceEntry_DNS:
		s.clusterOf = ir.StrictDNS
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		s.clusterOf = ir.LogicalDNS
	}
	s.setAddresses(spec.Addresses)
	for _, a := range spec.Addresses {
		if p, err := netip.ParsePrefix(a); err == nil {
			s.cidrs = append(s.cidrs, p.Masked())
		}
	}
	for _, p := range spec.Ports {
		sp := servicePort{number: uint16(p.Number), name: p.Name, target: intstr.FromInt32(int32(p.Number)), protocol: parseProtocol(p.Protocol, uint16(p.Number))}
		if p.TargetPort != 0 {
			sp.target = intstr.FromInt32(int32(p.TargetPort))
		}
		if p.Protocol == "" {
			sp.protocol = parseProtocol(p.Name, sp.number)
		}
		s.ports = append(s.ports, sp)
	}
	for i, e := range spec.Endpoints {
		s.instances = append(s.instances, x.entryWorkload(&se.Meta, at("spec.endpoints", i), e, se.Name+"-"+itoa(i))...)
	}
	s.choose(x.workloads, spec.WorkloadSelector.GetLabels())
	if len(s.instances) == 0 && spec.WorkloadSelector == nil && (s.clusterOf == ir.StrictDNS || s.clusterOf == ir.LogicalDNS) {
		s.instances = []*resource.Workload{{Name: host, Namespace: se.Namespace, Owner: host, Host: host, Ready: true}}
	}
	return s
}

// entryWorkloads makes instances of the WorkloadEntries.
func (x *Index) entryWorkloads() []*resource.Workload {
	var out []*resource.Workload
	for _, we := range x.set.WorkloadEntries {
		made := x.entryWorkload(&we.Meta, "spec", we.Spec, we.Name)
		for _, w := range made {
			labels := map[string]string{}
			for _, m := range []map[string]string{we.Labels, we.Spec.Labels} {
				for k, v := range m {
					labels[k] = v
				}
			}
			w.Labels, w.Annotations, w.OwnerKind = labels, we.Annotations, we.Kind
		}
		out = append(out, made...)
	}
	return out
}

// entryWorkload is the instance that a WorkloadEntry, or an endpoint of a
// ServiceEntry, describes; none if it cannot be reached. It takes mutual TLS if
// its label says so or it names a service account (Istio's rule).
func (x *Index) entryWorkload(m *resource.Meta, path string, e *networking.WorkloadEntry, name string) []*resource.Workload {
	w := &resource.Workload{Name: name, Namespace: m.Namespace, Owner: m.Name, Labels: e.Labels, ServiceAccount: e.ServiceAccount, Locality: e.Locality,
		Weight: e.Weight, Ready: true, PortMap: map[string]uint16{}, Sidecar: e.ServiceAccount != ""}
	if mode, ok := e.Labels["security.istio.io/tlsMode"]; ok {
		w.Sidecar = mode == "istio"
	}
	if w.ServiceAccount == "" {
		w.ServiceAccount = "default"
	}
	for port, number := range e.Ports {
		w.PortMap[port] = uint16(number)
	}
	for _, port := range sortedKeys(w.PortMap) {
		w.Ports = append(w.Ports, resource.WorkloadPort{Name: port, Port: w.PortMap[port]})
	}
	if e.Network != "" && e.Address == "" {
		x.report(resource.Error, m, path+".network", "an endpoint without address needs a gateway of its network (MeshNetworks), which is not supported yet; it is left out", "give its address")
		return nil
	}
	if socket, ok := strings.CutPrefix(e.Address, "unix://"); ok {
		w.Host = "unix:" + socket
	} else if addr, err := netip.ParseAddr(e.Address); err == nil {
		w.Address = addr
	} else {
		w.Host = e.Address
	}
	return []*resource.Workload{w}
}

// Auto-allocated addresses are in Istio's blocks.
var (
	allocatedV4 = netip.MustParseAddr("240.240.0.0").As4()
	allocatedV6 = netip.MustParseAddr("2001:2::").As16()
)

// allocate gives hosts without address one of their own (SE4), so that TCP
// connections to different hosts can be told apart: our DNS answers with it.
// The address follows from the host's name, and moves only when two collide.
func (x *Index) allocate() {
	var need []*service
	taken := map[netip.Addr]bool{}
	for _, s := range x.services {
		for _, a := range s.vips {
			taken[a] = true
		}
		if s.entry != nil && len(s.entry.Addresses) == 0 && s.clusterOf != ir.OriginalDst && !strings.HasPrefix(s.host, "*") &&
			s.Labels["networking.istio.io/enable-autoallocate-ip"] != "false" {
			need = append(need, s)
		}
	}
	key := func(s *service) string { return s.Namespace + "/" + s.host }
	slices.SortStableFunc(need, func(a, b *service) int { return strings.Compare(key(a), key(b)) })
	given := map[string][]netip.Addr{}
	for _, s := range need {
		if given[key(s)] == nil {
			h := fnv.New32a()
			h.Write([]byte(key(s)))
			given[key(s)] = free(h.Sum32(), taken)
		}
		s.vips, s.allocated = given[key(s)], true
		if len(s.vips) > 0 {
			s.vip = s.vips[0]
		}
	}
}

// free is the pair of addresses at a hash, or the next pair that nobody has.
func free(hash uint32, taken map[netip.Addr]bool) []netip.Addr {
	const size = 1<<16 - 2 // not the first and the last of the block
	for i := range uint32(size) {
		n := (hash+i)%size + 1
		v4, v6 := allocatedV4, allocatedV6
		v4[2], v4[3] = byte(n>>8), byte(n)
		v6[14], v6[15] = byte(n>>8), byte(n)
		a := netip.AddrFrom4(v4)
		if !taken[a] {
			taken[a] = true
			return []netip.Addr{a, netip.AddrFrom16(v6)}
		}
	}
	return nil
}
