package compile

import (
	"iter"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// unite makes a service one with those that ServiceEntries of its namespace
// give the same host, as istiod does: the oldest is the cluster, and all have
// endpoints behind it. s is the last of the services.
func (x *Index) unite(s *service) {
	var all []*service
	for _, other := range x.services {
		if other.host == s.host && other.Namespace == s.Namespace && other.entry != nil {
			all = append(all, other)
		}
	}
	if len(all) < 2 {
		return
	}
	for _, t := range all {
		t.siblings = all
	}
}

// protocols are those that the service and its siblings give a port, oldest
// first, seen from a namespace: each has its listener.
func (s *service) protocols(port uint16, from string) []protocol {
	if s.siblings == nil {
		return []protocol{s.port(port).protocol}
	}
	var out []protocol
	for _, t := range s.siblings {
		if p := t.port(port); p != nil && t.exportedTo(from) {
			out = slices.DeleteFunc(out, func(q protocol) bool { return q == p.protocol })
			out = append(out, p.protocol)
		}
	}
	return out
}

// newest is the protocol that decides whether the port has a virtual host.
func (s *service) newest(port uint16, from string) protocol {
	all := s.protocols(port, from)
	return all[len(all)-1]
}

// everywhere is the instances of the service and of its siblings.
func (s *service) everywhere() []*resource.Workload {
	if s.siblings == nil {
		return s.instances
	}
	var out []*resource.Workload
	for _, t := range s.siblings {
		out = append(out, t.instances...)
	}
	return out
}

// behind is what takes the connections to a port of the service: instances with
// their own ports (0: none). Of siblings those count that give the port the
// same name; in clusters of DNS names, all of them (Istio's rule).
func (s *service) behind(port *servicePort) iter.Seq2[*resource.Workload, uint16] {
	return func(yield func(*resource.Workload, uint16) bool) {
		if s.siblings == nil {
			for _, w := range s.instances {
				if !yield(w, port.portOn(w)) {
					return
				}
			}
			return
		}
		seen := map[string]bool{}
		for _, t := range s.siblings {
			p := t.port(port.number)
			if p == nil || p.name != port.name && s.clusterOf == ir.EDS {
				continue
			}
			for _, w := range t.instances {
				n := p.portOn(w)
				if address := endpointAddress(w, n); address != "" {
					if seen[address] { // one endpoint, however many entries name it
						continue
					}
					seen[address] = true
				}
				if !yield(w, n) {
					return
				}
			}
		}
	}
}

// conflicts reports a host that another ServiceEntry has on the same port (SE6;
// with another protocol, Istio's IST0177). s is not among the services yet.
func (x *Index) conflicts(se *resource.ServiceEntry, s *service) {
	for i := range s.ports {
		protocol, name := false, false // reported, each once
		for _, other := range x.services {
			p := other.port(s.ports[i].number)
			if other.host != s.host || other.entry == nil || p == nil {
				continue
			}
			who, same := "ServiceEntry "+other.Namespace+"/"+other.Name, other.Namespace == s.Namespace
			if p.protocol != s.ports[i].protocol && !protocol {
				protocol = true
				hint := "proxies that see both use the one of their own namespace, else the older (IST0177)"
				if same {
					hint = "each has its listener, routes follow the newer, the cluster is the older's (IST0177)"
				}
				x.report(resource.Warning, &se.Meta, at("spec.ports", i, "protocol"), who+" gives "+s.host+" another protocol on port "+itoa(int(p.number)), hint)
			}
			if same && p.name != s.ports[i].name && s.clusterOf == ir.EDS && other.clusterOf == ir.EDS && !name {
				name = true
				x.report(resource.Warning, &se.Meta, at("spec.ports", i, "name"), who+" has "+s.host+" with port "+itoa(int(p.number))+" under the name "+p.name+" already; the endpoints here are not used", "give the port the same name, or put the endpoints into one ServiceEntry")
			}
		}
	}
}
