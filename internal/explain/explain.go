// Package explain answers what would happen to a request, with the code that
// decides on live traffic: both sidecars' snapshots are compiled, and route
// and authz are asked with a trace. It sends nothing.
package explain

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Question is a request that might be made.
type Question struct {
	From string `json:"from"` // workload, its owner, or a gateway
	// To is host or host:port as the caller writes it; through a gateway the Host
	// header. Default for the port: the service's only one, else 80.
	To      string            `json:"to"`
	Method  string            `json:"method,omitempty"`  // default GET
	Path    string            `json:"path,omitempty"`    // default /; may have a query
	Headers map[string]string `json:"headers,omitempty"` // names in any case
	// Address is the IP of who calls a gateway; default: not known, and nothing
	// that asks for addresses matches.
	Address string `json:"address,omitempty"`
}

// Step is one decision on the way.
type Step struct {
	Step    string    `json:"step"`             // route, cluster, mtls, token, authorize
	Outcome string    `json:"outcome"`          // in one line
	Origin  ir.Origin `json:"origin,omitzero"`  // what decided
	Missed  []Missed  `json:"missed,omitempty"` // what did not match before, nearest first
}

// Missed is an alternative that did not match, and why.
type Missed struct {
	What   string    `json:"what"`
	Why    string    `json:"why"`
	Origin ir.Origin `json:"origin,omitzero"`
}

// Answer is the whole way of the request.
type Answer struct {
	Allowed bool   `json:"allowed"`
	Leaves  bool   `json:"leaves,omitempty"` // allowed, and outside the mesh: whether anybody answers is not known here
	Status  int    `json:"status,omitempty"` // that the mesh would answer; 0: the application decides
	Flag    string `json:"flag,omitempty"`   // Envoy's response flag
	// DryRun is "allow" or "deny": the verdict were the dry-run policies live;
	// "" without such policies.
	DryRun string `json:"dryRun,omitempty"`
	// Ends are all that may come of the request, where that depends on which of
	// several destinations or workloads it is sent to; the first is the one above.
	Ends  []End  `json:"ends,omitempty"`
	Steps []Step `json:"steps"`
}

func (a *Answer) step(name, outcome string, origin ir.Origin, missed ...Missed) {
	a.Steps = append(a.Steps, Step{name, outcome, origin, missed})
}

func (a *Answer) end(status int, flag string) *Answer {
	a.Status, a.Flag = status, flag
	return a
}

// Ask puts a request to an external authorizer that listens on a port of a
// workload (NAME.NAMESPACE); nil when none can be reached.
type Ask func(workload string, port uint16, f *ir.ExtAuthz, e *authz.External) authz.Verdict

// Explain answers. The error says that the question makes no sense (no such
// workload, no such port).
func Explain(x *compile.Index, q Question, ask Ask) (*Answer, error) {
	from := x.Workload(q.From)
	if from == nil {
		return nil, fmt.Errorf("no workload %q; name one as \"tulle proxy-status\" lists it", q.From)
	}
	if q.Method == "" {
		q.Method = "GET"
	}
	if q.Path == "" {
		q.Path = "/"
	}
	if q.Path[0] != '/' && q.Path != "*" {
		return nil, fmt.Errorf("path %q: want one that begins with /", q.Path)
	}
	e := &question{Question: q, index: x, from: from, ask: ask}
	if q.Address != "" {
		var err error
		if e.client, err = netip.ParseAddr(q.Address); err != nil {
			return nil, fmt.Errorf("address %q: want an IP address", q.Address)
		}
	}
	return e.answer()
}

type question struct {
	Question
	index  *compile.Index
	from   *resource.Workload
	ask    Ask
	sent   sent         // what leaves the caller's proxy
	token  *authz.Token // that the last proxy verified
	host   string       // where the caller connects to
	port   uint16
	route  *route.Route // that was taken; nil: no HTTP route
	path   string       // normalized, as the route found it
	query  string       // with its "?"
	opaque bool         // the caller's proxy passes bytes on, and answers nothing
	client netip.Addr   // outside, of a gateway; zero: not known
}

// fields is the headers of the question (route.Headers, authz.Headers).
type fields map[string]string

func (f fields) Get(name string) (string, bool) {
	for k, v := range f {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}

func (q *question) answer() (*Answer, error) {
	a := &Answer{}
	snapshot := q.index.Snapshot(q.index.Node(q.from))
	host, port, err := q.destination(snapshot)
	if err != nil {
		return nil, err
	}
	q.host, q.port = host, port
	q.sent = sent{host: host, path: q.Path, headers: fields(q.Headers)}
	if !q.from.Gateway && port != 80 && strings.Contains(q.To, ":") {
		q.sent.host = net.JoinHostPort(host, strconv.Itoa(int(port))) // as HTTP clients write it
	}
	if v, ok := q.sent.headers.Get("host"); ok {
		q.sent.host = v
	}
	if !q.from.Sidecar && !q.from.Gateway {
		return q.bare(a, host, port)
	}
	clusters, err := q.outbound(a, snapshot, host, port)
	if clusters == nil || err != nil {
		return a, err
	}
	q.ends(a, snapshot, clusters)
	return a, nil
}

// destination takes To apart; the port may come from the service.
func (q *question) destination(s *ir.Snapshot) (string, uint16, error) {
	host, port, ok := strings.Cut(q.To, ":")
	if ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return "", 0, fmt.Errorf("%q: %q is not a port", q.To, port)
		}
		return host, uint16(n), nil
	}
	if q.from.Gateway {
		for _, l := range s.Listeners {
			if len(l.Chains) > 0 && l.Chains[0].TLS == nil {
				return host, l.Address.Port(), nil
			}
		}
		return "", 0, fmt.Errorf("gateway %s has no plain HTTP server; give the port: %s:8443", q.From, host)
	}
	ports := q.index.ServicePorts(host, q.from.Namespace)
	switch {
	case len(ports) == 1:
		return host, ports[0], nil
	case len(ports) == 0 || slices.Contains(ports, 80):
		return host, 80, nil
	}
	return "", 0, fmt.Errorf("service %s has ports %v: say which, as %s:%d", host, ports, host, ports[0])
}

// outbound follows the caller's proxy: listener, then route or TCP.
func (q *question) outbound(a *Answer, s *ir.Snapshot, host string, port uint16) ([]ir.WeightedCluster, error) {
	vip := q.address(s, host)
	l := listener(s, vip, port)
	if l == nil {
		if q.from.Gateway {
			return nil, fmt.Errorf("gateway %s does not listen on port %d", q.From, port)
		}
		q.unknown(a, s, host, port)
		return nil, nil
	}
	c := chain(l, host, vip)
	switch {
	case c == nil && l.Chains[0].TLS == nil:
		a.step("route", "no filter chain takes server name "+host+": the connection is closed", l.Origin)
		a.end(0, "NR")
		return nil, nil
	case c == nil:
		a.step("route", fmt.Sprintf("no server on port %d has a certificate for %s: the connection is reset", port, host), l.Origin)
		return nil, nil
	case c.TCP != nil:
		a.step("route", "TCP to "+names(c.TCP.Clusters), c.Origin)
		return c.TCP.Clusters, nil
	case !upgradable(a, q.Headers, c):
		return nil, nil
	}
	q.sent.stamp(c, q.client)
	if q.from.Gateway && !q.enter(a, c, port) {
		return nil, nil
	}
	return q.routed(a, s, c.HTTP, host, port)
}

func (q *question) routed(a *Answer, s *ir.Snapshot, h *ir.HTTP, host string, port uint16) ([]ir.WeightedCluster, error) {
	table := s.RouteTable(h.RouteTable)
	if table == nil {
		return nil, fmt.Errorf("route table %s is missing", h.RouteTable)
	}
	t, err := route.New(table)
	if err != nil {
		return nil, err
	}
	path, query := cutQuery(q.sent.path)
	if normal, err := route.NormalizePath(h.PathNormalization, path); err == nil {
		path = normal
	}
	authority := q.sent.host
	request := &route.Request{Method: q.Method, Scheme: q.sent.scheme, Host: authority, Path: path, Query: strings.TrimPrefix(query, "?"), Headers: q.sent.headers}
	if q.token != nil {
		request.Claims = q.token
	}
	vh, tried, taken := t.Trace(request)
	var missed []Missed
	for _, m := range tried {
		if m.Missed != "" {
			missed = append(missed, Missed{"route " + m.Route.Name, m.Missed, first(m.Route.Match.Origin, m.Route.Origin)})
		}
	}
	if vh != nil && !q.from.Gateway {
		missed = append(missed, q.rivals(vh)...)
	}
	if taken == nil {
		why := "no virtual host for " + authority
		origin := ir.Origin{}
		if vh != nil {
			why, origin = "no route of "+vh.Name+" matches", vh.Origin
		}
		a.step("route", why, origin, missed...)
		a.end(404, "NR")
		return nil, nil
	}
	return q.act(a, taken, authority, path, query, missed), nil
}

// cutQuery parts a path from its query, which keeps its "?".
func cutQuery(path string) (string, string) {
	if i := strings.IndexByte(path, '?'); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

func names(list []ir.WeightedCluster) string {
	var out []string
	for _, w := range list {
		if len(list) > 1 {
			out = append(out, fmt.Sprintf("%s (weight %d)", w.Name, w.Weight))
		} else {
			out = append(out, w.Name)
		}
	}
	return strings.Join(out, ", ")
}

func first(list ...ir.Origin) ir.Origin {
	for _, o := range list {
		if !o.IsZero() {
			return o
		}
	}
	return ir.Origin{}
}
