package explain

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// ownTLS follows a connection that a DestinationRule encrypts for the
// application (SIMPLE, MUTUAL): the mesh's certificates play no role in it, and
// so a sidecar that decrypts takes none of it.
func (q *question) ownTLS(a *Answer, to *endpoint) {
	if !to.workload.Sidecar {
		a.leave("mtls", to.workload.Name+" has no sidecar, and the caller uses TLS ("+to.tls+"): whether the application speaks it is not known", to.from)
		return
	}
	port := to.address.Port()
	c := opaqueTLS(q.index.Snapshot(q.index.Node(to.workload)), port)
	if c == nil {
		a.step("mtls", to.workload.Name+"'s sidecar takes mutual TLS of the mesh only, and the caller uses TLS of its own ("+to.tls+"): the handshake fails", to.from)
		a.end(503, "UF")
		return
	}
	a.step("mtls", "the caller uses TLS of its own ("+to.tls+"), which passes through as it is: whether the application speaks it is not known", to.from)
	q.authorize(a, c, netip.AddrPortFrom(to.workload.Address, port), q.from.Address, to, "")
	a.Leaves = a.Allowed
}

// opaqueTLS is the filter chain that passes an application's own TLS through; nil
// for none. Where chains name the port, they alone decide.
func opaqueTLS(s *ir.Snapshot, port uint16) *ir.FilterChain {
	var own, other *ir.FilterChain
	named := false
	for _, l := range s.Listeners {
		if l.Direction != ir.Inbound {
			continue
		}
		for _, c := range l.Chains {
			named = named || c.Match.Port == port
			switch takes := c.TLS == nil && c.Match.Transport != ir.TransportRaw; {
			case takes && c.Match.Port == port:
				own = c
			case takes && c.Match.Port == 0:
				other = c
			}
		}
	}
	if named {
		return own
	}
	return other
}
