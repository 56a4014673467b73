package compile

import "github.com/tulle-mesh/tulle/internal/resource"

// Instance is a workload with the port at which it serves.
type Instance struct {
	Workload *resource.Workload
	Port     uint16
}

// Instances are those, ready, behind a port of the service that a caller in
// namespace means by host. translated reports that it is a Kubernetes Service,
// whose address leads to them without the help of a proxy; a ServiceEntry's
// does not.
func (x *Index) Instances(host, namespace string, port uint16) (out []Instance, translated bool) {
	s := x.serviceFor(host, namespace)
	if s == nil {
		return nil, false
	}
	p := s.port(port)
	if p == nil {
		return nil, s.entry == nil
	}
	for w, n := range s.behind(p) {
		if s.headless { // its name is the instances' addresses: no port is translated
			n = port
		}
		if n != 0 && w.Ready {
			out = append(out, Instance{w, n})
		}
	}
	return out, s.entry == nil
}
