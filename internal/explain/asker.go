package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// asker asks the external authorizer for real, if there is a way to it.
type asker struct {
	q         *question
	to        *endpoint
	principal string
}

// Ask implements authz.Asker.
func (k *asker) Ask(f *ir.ExtAuthz) authz.Verdict {
	q := k.q
	if q.ask == nil {
		return authz.Verdict{Err: fmt.Errorf("cannot be asked from here; explain where the mesh runs")}
	}
	workload, port := k.authorizer(f)
	if workload == "" && f.Rego == nil {
		return authz.Verdict{Err: fmt.Errorf("%s has no endpoint that is ready", f.Cluster)}
	}
	local, asks := netip.AddrPort{}, q.from
	if k.to != nil {
		local, asks = k.to.address, k.to.workload
	}
	return q.ask(workload, port, f, &authz.External{
		Provider: f.Provider, HTTP: true, Method: q.Method, Path: q.sent.path, Host: q.sent.host, Scheme: q.sent.scheme, Protocol: "HTTP/1.1",
		SourceAddress: netip.AddrPortFrom(q.from.Address, 0), DestinationAddress: local,
		SourcePrincipal: k.principal, DestinationPrincipal: q.index.Node(asks).Principal(), Time: time.Now(),
		Headers: func(yield func(string, string) bool) {
			for name, value := range q.sent.headers {
				if !yield(strings.ToLower(name), value) {
					return
				}
			}
		},
	})
}

// authorizer is one ready instance behind the provider's cluster.
func (k *asker) authorizer(f *ir.ExtAuthz) (string, uint16) {
	asks := k.q.from // a gateway's own policies
	if k.to != nil {
		asks = k.to.workload
	}
	set := k.q.index.Snapshot(k.q.index.Node(asks)).EndpointSet(f.Cluster)
	if set == nil {
		return "", 0
	}
	for _, e := range set.Endpoints {
		if addr, err := netip.ParseAddrPort(e.Address); err == nil && e.Health == ir.Healthy {
			return e.Workload.Instance + "." + e.Workload.Namespace, addr.Port()
		}
	}
	return "", 0
}
