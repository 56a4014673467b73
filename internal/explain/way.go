package explain

import (
	"cmp"
	"fmt"
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
	scheme  string
	headers fields
}

// follow applies what a route does to a request that goes to one of its
// clusters, whose operations come first; path is the normalized one,
// query has its "?".
func (s *sent) follow(r *route.Route, w *ir.WeightedCluster, path, query string) {
	f := r.Forward
	if f.PrefixRewrite != "" || f.RegexRewrite != nil {
		path = r.RewritePath(path)
	}
	s.path = path + query
	s.host = cmp.Or(f.HostRewrite, w.HostRewrite, s.host)
	s.headers = s.headers.edited(&w.Request).edited(&r.Request)
}

// edited is a copy with header operations applied: remove, set, add.
func (f fields) edited(ops *ir.HeaderOps) fields {
	if ops.IsZero() {
		return f
	}
	out := f.own()
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
	return out
}

// address is what the caller connects to: it looks host up with its sidecar's
// name server, if that is in use; the zero Addr for what only other servers know.
func (q *question) address(s *ir.Snapshot, host string) netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return a
	}
	for _, l := range s.Listeners {
		if l.DNS == nil {
			continue
		}
		for _, n := range l.DNS.Names {
			if n.Host == host && len(n.Addresses) > 0 {
				return n.Addresses[0]
			}
		}
	}
	return q.index.ServiceAddress(host, q.from.Namespace)
}

// listener finds what takes a connection, as virtualOutbound hands it over.
func listener(s *ir.Snapshot, vip netip.Addr, port uint16) *ir.Listener {
	var wildcard *ir.Listener
	for _, l := range s.Listeners {
		if l.Direction != ir.Outbound || l.Address.Port() != port || l.DNS != nil || l.UseOriginalDst || len(l.Chains) == 0 && l.Default == nil {
			continue
		}
		if l.Address.Addr() == vip {
			return l
		}
		if l.Address.Addr().IsUnspecified() {
			wildcard = l
		}
	}
	return wildcard
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
	why := fmt.Sprintf("no service listens on port %d: passed through as bytes%s", port, q.unheardOf())
	instances, translated := q.index.Instances(host, q.from.Namespace, port)
	if !translated || instances == nil {
		a.leave("route", why, ir.Origin{})
		return
	}
	a.step("route", why+"; it comes to an instance all the same, in plaintext", ir.Origin{})
	q.opaque = true
	q.past(a, instances)
}

// leave ends the way outside the mesh.
func (a *Answer) leave(step, outcome string, origin ir.Origin) {
	a.step(step, outcome, origin)
	a.Allowed, a.Leaves = true, true
}

// unheardOf is what the mesh does not know of a destination that it passes
// through: a slip in a name or a port is passed through too. "" for addresses.
func (q *question) unheardOf() string {
	ports := q.index.ServicePorts(q.host, q.from.Namespace)
	if slices.Contains(ports, q.port) {
		return fmt.Sprintf("; service %s is hidden from its sidecar (by exportTo or a Sidecar's egress)", q.host)
	}
	if ports != nil {
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

// enter runs a gateway's own policies, which come before its routes. Where the
// question does not say who is outside, addresses match nothing.
func (q *question) enter(a *Answer, c *ir.FilterChain, port uint16) bool {
	if len(c.Filters) == 0 {
		return true
	}
	q.authorize(a, c, netip.AddrPortFrom(q.from.Address, port), q.client, nil, "")
	allowed := a.Allowed
	a.Allowed = false // the way is not over
	return allowed
}

// bare is a caller without sidecar: straight to an instance, in plaintext.
func (q *question) bare(a *Answer, host string, port uint16) (*Answer, error) {
	instances, translated := q.index.Instances(host, q.from.Namespace, port)
	switch {
	case translated && instances != nil:
		a.step("route", q.from.Name+" has no sidecar: straight to an instance, "+instances[0].Workload.Name+" for one", ir.Origin{})
		q.past(a, instances)
	case !translated:
		a.leave("route", q.from.Name+" has no sidecar, and "+host+" is no Kubernetes Service: outside the mesh", ir.Origin{})
	default:
		a.step("route", q.from.Name+" has no sidecar, and no instance of "+host+" is ready: the connection fails", ir.Origin{})
	}
	return a, nil
}
