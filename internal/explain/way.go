package explain

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/route"
)

// sent is the request as it leaves the caller's proxy: what the callee's
// policies see is not what the caller wrote once a route has rewritten it.
type sent struct {
	host    string
	path    string // with query
	headers fields
}

// follow applies what a route does to a request; path is the normalized one.
func (s *sent) follow(r *route.Route, path, query string) {
	f := r.Forward
	if f.PrefixRewrite != "" || f.RegexRewrite != nil {
		path = r.RewritePath(path)
	}
	if s.path = path; query != "" {
		s.path += "?" + query
	}
	if f.HostRewrite != "" {
		s.host = f.HostRewrite
	}
	if len(f.Clusters) == 1 { // of several, each may do something else
		s.headers = s.headers.edited(&f.Clusters[0].Request)
	}
	s.headers = s.headers.edited(&r.Request)
}

// edited is a copy with header operations applied: remove, set, add.
func (f fields) edited(ops *ir.HeaderOps) fields {
	if ops.IsZero() {
		return f
	}
	out := fields{}
	for name, v := range f {
		out[strings.ToLower(name)] = v
	}
	for _, name := range ops.Remove {
		delete(out, strings.ToLower(name))
	}
	for _, h := range ops.Set {
		out[h.Name] = h.Value
	}
	for _, h := range ops.Add {
		if v, ok := out[h.Name]; ok {
			out[h.Name] = v + "," + h.Value
		} else {
			out[h.Name] = h.Value
		}
	}
	return maps.Clone(out)
}

// chain is the filter chain that takes a connection for host: the only
// plaintext one, or, by server name, one of the encrypted.
func chain(l *ir.Listener, host string, to netip.Addr) *ir.FilterChain {
	var best *ir.FilterChain
	rank := -1
	for _, c := range l.Chains {
		if len(c.Match.Prefixes) > 0 && !slices.ContainsFunc(c.Match.Prefixes, func(p netip.Prefix) bool { return p.Contains(to) }) {
			continue
		}
		if c.TLS == nil && len(c.Match.ServerNames) == 0 {
			return c // plain, or told apart by what only bytes can tell
		}
		if r := nameRank(c.Match.ServerNames, host); r > rank {
			best, rank = c, r
		}
	}
	if best == nil {
		return l.Default
	}
	return best
}

// nameRank: exact over the longest wildcard over none; -1 for another name.
func nameRank(names []string, host string) int {
	if len(names) == 0 {
		return 0
	}
	best := -1
	for _, n := range names {
		switch {
		case n == host:
			return 1 << 20
		case strings.HasPrefix(n, "*.") && strings.HasSuffix(host, n[1:]):
			best = max(best, len(n))
		}
	}
	return best
}

// unknown is a destination that no listener has: passed through as bytes, or
// not, as outboundTrafficPolicy says.
func (q *question) unknown(a *Answer, s *ir.Snapshot, host string, port uint16) {
	for _, l := range s.Listeners {
		if l.UseOriginalDst && l.Direction == ir.Outbound && l.Default != nil && l.Default.TCP != nil && l.Default.TCP.Clusters[0].Name == ir.BlackHoleCluster {
			a.step("route", fmt.Sprintf("port %d of %s is not in the registry, and outboundTrafficPolicy is REGISTRY_ONLY: the connection is reset", port, host), ir.Origin{})
			return
		}
	}
	a.leave("route", fmt.Sprintf("no service listens on port %d: passed through as bytes%s", port, q.unheardOf()), ir.Origin{})
}

// leave ends the way outside the mesh.
func (a *Answer) leave(step, outcome string, origin ir.Origin) {
	a.step(step, outcome, origin)
	a.Allowed, a.Leaves = true, true
}

// unheardOf is what the mesh does not know of a destination that it passes
// through: a slip in a name or a port is passed through too. "" for addresses.
func (q *question) unheardOf() string {
	if ports := q.index.ServicePorts(q.host, q.from.Namespace); ports != nil {
		return fmt.Sprintf("; service %s has no port %d, only %v", q.host, q.port, ports)
	}
	if _, err := netip.ParseAddr(q.host); err == nil {
		return ""
	}
	return "; no service or ServiceEntry is called " + q.host
}

// upgradable: a proxy lets pass the protocol upgrades that its chain names.
func upgradable(a *Answer, headers fields, c *ir.FilterChain) bool {
	to, ok := headers.Get("upgrade")
	if !ok || c.HTTP == nil || strings.EqualFold(to, "h2c") {
		return true
	}
	for _, u := range c.HTTP.Upgrades {
		if strings.EqualFold(u, to) {
			return true
		}
	}
	a.step("route", "the upgrade to "+to+" is not enabled", c.Origin)
	a.end(http.StatusForbidden, "")
	return false
}

// enter runs a gateway's own policies, which come before its routes. Who is
// outside is not part of the question, so that addresses match nothing.
func (q *question) enter(a *Answer, c *ir.FilterChain, port uint16) bool {
	if len(c.Filters) == 0 {
		return true
	}
	q.authorize(a, c, netip.AddrPortFrom(q.from.Address, port), netip.Addr{}, nil, "")
	allowed := a.Allowed
	a.Allowed = false // the way is not over
	return allowed
}

// bare is a caller without sidecar: straight to an instance, in plaintext.
func (q *question) bare(a *Answer, host string, port uint16) (*Answer, error) {
	w, at := q.index.Instance(host, q.from.Namespace, port)
	if w == nil {
		if q.index.ServicePorts(host, q.from.Namespace) == nil {
			a.leave("route", q.from.Name+" has no sidecar, and "+host+" is no service: outside the mesh", ir.Origin{})
			return a, nil
		}
		a.step("route", q.from.Name+" has no sidecar, and no instance of "+host+" is ready: the connection fails", ir.Origin{})
		return a, nil
	}
	a.step("route", q.from.Name+" has no sidecar: straight to an instance, "+w.Name+" for one", ir.Origin{})
	q.inbound(a, &endpoint{workload: w, address: netip.AddrPortFrom(w.Address, at)})
	return a, nil
}
