package compile

import "github.com/tulle-mesh/tulle/internal/resource"

// Instance is one ready instance behind a port of a service that a caller in
// namespace means by host, with the port it listens on; nil for none.
func (x *Index) Instance(host, namespace string, port uint16) (*resource.Workload, uint16) {
	s := x.serviceFor(host, namespace)
	if s == nil {
		return nil, 0
	}
	p := s.port(port)
	if p == nil {
		return nil, 0
	}
	for w, n := range s.behind(p) {
		if n != 0 && w.Ready {
			return w, n
		}
	}
	return nil, 0
}
