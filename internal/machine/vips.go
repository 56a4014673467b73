package machine

import (
	"hash/fnv"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// vips are the addresses of services, by namespace/name.
type vips map[string]netip.Addr

// assign returns the set with an address for every Service that has none.
func (v vips) assign(set *resource.Set) *resource.Set {
	out := *set
	out.Services = make([]*resource.Service, 0, len(set.Services))
	for _, s := range set.Services {
		if s.Spec.Spec.ClusterIP == "" && s.Spec.Spec.Type != corev1.ServiceTypeExternalName {
			c := *s
			c.Spec = s.Spec.DeepCopy()
			c.Spec.Spec.ClusterIP = v.of(s.Namespace + "/" + s.Name).String()
			s = &c
		}
		out.Services = append(out.Services, s)
	}
	return &out
}

// of derives an address from the name, so that it survives restarts.
func (v vips) of(name string) netip.Addr {
	if a, ok := v[name]; ok {
		return a
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	for n := h.Sum32(); ; n++ {
		a := netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)})
		taken := a.As4()[3] == 0 || a.As4()[3] == 255
		for _, other := range v {
			taken = taken || other == a
		}
		if !taken {
			v[name] = a
			return a
		}
	}
}

// Planned is the set as Room would complete it, with a ready instance for every
// replica that would run, and what is wrong with these. It starts nothing.
func Planned(set *resource.Set) (*resource.Set, []resource.Problem) {
	out := vips{}.assign(set)
	specs, problems := plan(set, PlanOptions{}) // with which programs is not asked
	for i, s := range specs {
		addr := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
		out.Workloads = append(out.Workloads[:len(out.Workloads):len(out.Workloads)], s.workload(addr, true))
	}
	return out, problems
}
