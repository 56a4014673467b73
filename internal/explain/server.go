package explain

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/route"
)

// endpoint is where a request arrives.
type endpoint struct {
	workload *resource.Workload
	address  netip.AddrPort
	mtls     bool      // the caller's proxy uses mutual TLS
	sni      string    // the server name that it then sends
	tls      string    // mode of a DestinationRule's TLS; "" for none
	from     ir.Origin // of the mode
}

// endpoints says which instances may be picked, one of each workload; nil when
// the way ends here.
func (q *question) endpoints(a *Answer, s *ir.Snapshot, w *ir.WeightedCluster) []*endpoint {
	c := s.Cluster(w.Name)
	if c == nil {
		a.step("cluster", "cluster "+w.Name+" does not exist", w.Origin)
		a.end(503, "NC")
		return nil
	}
	if c.Type == ir.OriginalDst || c.Name == ir.BlackHoleCluster {
		return q.original(a, c)
	}
	set := c.Endpoints
	if c.Type == ir.EDS {
		set = s.EndpointSet(c.Name)
	}
	var picks []*ir.Endpoint
	var ready []string
	if set != nil {
		for i := range set.Endpoints {
			if e := &set.Endpoints[i]; e.Health == ir.Healthy {
				ready, picks = append(ready, e.Workload.Instance), append(picks, e)
			}
		}
	}
	origin := first(c.SubsetFrom, c.PolicyFrom, c.Origin)
	if picks == nil {
		a.step("cluster", c.Name+" has no endpoint that is ready", origin)
		a.end(503, "UH")
		return nil
	}
	a.step("cluster", fmt.Sprintf("%s, one of %s by %s", c.Name, strings.Join(ready, ", "), firstLB(c.LB)), origin)
	var all []*endpoint
	for _, p := range picks {
		if e := q.endpoint(c, p); e != nil {
			all = append(all, e)
		}
	}
	if all == nil {
		a.leave("mtls", picks[0].Address+" is not a workload of this mesh", c.Origin)
	}
	return workloads(all)
}

// original is the address that the caller connected to.
func (q *question) original(a *Answer, c *ir.Cluster) []*endpoint {
	instances, translated := q.index.Instances(q.host, q.from.Namespace, q.port)
	switch {
	case c.Type == ir.OriginalDst && translated && instances != nil:
		a.step("cluster", c.Name+": to the address that the caller connected to, an instance of "+q.host, c.Origin)
		targets := plaintext(instances)
		for _, e := range targets {
			e.secure(c, false) // what such an address accepts is not known beforehand
		}
		return targets
	case c.Name == ir.PassthroughCluster:
		a.leave("cluster", c.Name+": outside the mesh"+q.unheardOf(), c.Origin)
	default:
		a.step("cluster", c.Name+": outside the mesh", c.Origin)
		a.Allowed = c.Name != ir.BlackHoleCluster
		a.Leaves = a.Allowed
	}
	return nil
}

// endpoint is the workload at an endpoint; nil for what is none of this mesh.
func (q *question) endpoint(c *ir.Cluster, p *ir.Endpoint) *endpoint {
	addr, err := netip.ParseAddrPort(p.Address)
	target := q.index.Workload(p.Workload.Instance + "." + p.Workload.Namespace)
	if err != nil || target == nil {
		return nil
	}
	e := &endpoint{workload: target, address: addr}
	e.secure(c, p.TLS)
	return e
}

// secure notes how a cluster's connections are encrypted; accepts: the endpoint
// is known to take the mesh's mutual TLS.
func (e *endpoint) secure(c *ir.Cluster, accepts bool) {
	switch {
	case c.TLS != nil:
		e.mtls, e.sni, e.tls, e.from = true, c.TLS.SNI, c.TLS.Mode, first(c.TLS.Origin, c.PolicyFrom)
	case c.AutoTLS != nil && accepts:
		e.mtls, e.sni = true, c.AutoTLS.SNI
	}
}

func firstLB(p ir.LBPolicy) ir.LBPolicy {
	if p == "" {
		return ir.LeastRequest
	}
	return p
}

// inbound follows the callee's sidecar: mutual TLS, then its policies.
func (q *question) inbound(a *Answer, to *endpoint) {
	if to.tls != "" && to.tls != "ISTIO_MUTUAL" {
		q.ownTLS(a, to)
		return
	}
	if !to.workload.Sidecar && !to.workload.Gateway && to.tls == "ISTIO_MUTUAL" {
		a.step("mtls", to.workload.Name+" has no sidecar, and the caller insists on mutual TLS: the handshake fails", to.from)
		a.end(503, "UF")
		return
	}
	if !to.workload.Sidecar {
		a.step("mtls", to.workload.Name+" has no sidecar: plaintext, and nothing is checked", ir.Origin{})
		a.Allowed = true
		return
	}
	mode, origin := q.index.PeerMode(to.workload.Namespace, to.workload.Labels, to.address.Port())
	principal := ""
	if !q.from.Sidecar && !q.from.Gateway {
		to.mtls = false
	}
	switch {
	case to.mtls:
		principal = q.index.Node(q.from).Principal()
		a.step("mtls", fmt.Sprintf("%s: the caller proves %s", mode, principal), origin)
	case mode == "STRICT":
		a.step("mtls", "STRICT, and the caller sends plaintext: the connection is reset", origin)
		switch {
		case q.opaque:
			a.end(0, "UC")
		case q.from.Sidecar || q.from.Gateway:
			a.end(503, "UC") // what its own proxy makes of it
		}
		return
	default:
		a.step("mtls", mode+": plaintext, without identity", origin)
	}
	chain := inboundChain(q.index.Snapshot(q.index.Node(to.workload)), to.address.Port(), to.mtls)
	if chain == nil {
		a.step("authorize", fmt.Sprintf("no filter chain takes port %d", to.address.Port()), ir.Origin{})
		a.end(503, "NR")
		return
	}
	if chain.HTTP != nil && !upgradable(a, q.Headers, chain) {
		return
	}
	if chain.HTTP != nil {
		q.sent.stamp(chain, netip.Addr{})
	}
	q.authorize(a, chain, netip.AddrPortFrom(to.workload.Address, to.address.Port()), q.from.Address, to, principal)
}

func inboundChain(s *ir.Snapshot, port uint16, mtls bool) *ir.FilterChain {
	var fallback *ir.FilterChain
	for _, l := range s.Listeners {
		if l.Direction != ir.Inbound {
			continue
		}
		for _, c := range l.Chains {
			if (c.TLS != nil) != mtls {
				continue
			}
			if c.Match.Port == port {
				return c
			}
			if c.Match.Port == 0 && fallback == nil {
				fallback = c
			}
		}
	}
	return fallback
}

// authorize runs a chain's policies for a connection from source to local; to
// is nil at a gateway.
func (q *question) authorize(a *Answer, c *ir.FilterChain, local netip.AddrPort, source netip.Addr, to *endpoint, principal string) {
	engine, err := authz.New(c.Filters)
	if err != nil {
		a.step("authorize", err.Error(), ir.Origin{})
		a.end(503, "")
		return
	}
	in := &authz.Input{Principal: principal, SourceIP: source, RemoteIP: source, DestinationIP: local.Addr(), DestinationPort: local.Port()}
	if to != nil {
		in.SNI = to.sni
	}
	if c.HTTP != nil {
		path, query := cutQuery(q.sent.path)
		in.Query = query
		normal, err := route.NormalizePath(c.HTTP.PathNormalization, path)
		if err != nil {
			a.step("authorize", fmt.Sprintf("the path %s cannot be normalized without ambiguity", path), ir.Origin{})
			a.end(400, "DPE")
			return
		}
		in.HTTP, in.Host, in.Method, in.Path, in.Headers = true, q.sent.host, q.Method, normal, q.sent.headers
		if xff, ok := q.sent.headers.Get("x-forwarded-for"); ok {
			switch hops := c.HTTP.TrustedHops; {
			case to != nil && q.from.Gateway && !q.client.IsValid():
				in.RemoteIP = q.client // the gateway's word, which the question does not have
			case to != nil:
				in.RemoteIP = authz.RemoteIP(source, xff, 0)
			case hops > 0: // a gateway believes as many proxies before it, and nobody's word else
				in.RemoteIP = authz.RemoteIP(source, xff, hops)
			}
		}
	}
	d, considered := engine.Trace(in, &asker{q, to, principal})
	q.token = in.Token
	if in.Token != nil {
		a.step("token", "verified: "+firstText(in.Token.Principal(), "it has no issuer or no subject, and so no principal"), ir.Origin{})
	}
	name, matched, missed := judged(considered)
	a.asides(&d, considered)
	switch {
	case d.Token != nil:
		a.step("token", "refused: "+d.Token.Reason+because(d.Token.Hint), d.Origin)
		a.end(d.Token.Status, "")
		return
	case d.Allow && name == "" && len(missed) == 0:
		a.step("authorize", "no policy applies: allowed", ir.Origin{})
	case d.Allow:
		a.step("authorize", "allowed by "+firstText(name, "default: no policy refuses")+external(&d, c.Filters), matched, missed...)
	case d.Policy == "":
		a.step("authorize", "refused: ALLOW policies exist and none matches", ir.Origin{}, missed...)
	default:
		a.step("authorize", fmt.Sprintf("refused by %s %s%s", d.Action, d.Policy, external(&d, c.Filters)), d.Origin, missed...)
	}
	a.Allowed = d.Allow
	if d.Allow {
		return
	}
	if c.HTTP == nil {
		a.end(0, "UC")
		return
	}
	status := 403
	if d.External != nil && d.External.Status != 0 {
		status = d.External.Status
	}
	a.end(status, "")
}

func firstText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// external is what an authorizer said, or why it cannot be asked.
func external(d *authz.Decision, filters []ir.Filter) string {
	if d.External == nil {
		for _, f := range filters {
			if d.Provider != "" && f.ExtAuthz != nil && f.ExtAuthz.Provider == d.Provider {
				return " (provider " + d.Provider + ": " + f.ExtAuthz.Broken + ")"
			}
		}
		return ""
	}
	if d.External.Err != nil {
		return fmt.Sprintf(" (%s: %v)", d.Provider, d.External.Err)
	}
	if d.External.Allow {
		return " (provider " + d.Provider + " said yes)"
	}
	return " (provider " + d.Provider + " said no)"
}
