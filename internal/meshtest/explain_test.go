package meshtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/explain"
	"github.com/tulle-mesh/tulle/internal/extauthz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/rego"
)

// agree compares one step. explain knows the configuration, not what
// applications do, so that "the application decides" covers every failure on
// the way to it and in it.
func agree(r *runner, st *step, who string, q *request, outs []outcome) {
	r.t.Helper()
	question, ok := r.questionFor(who, q)
	if !ok {
		return
	}
	a, err := explain.Explain(r.world.index, question, r.ask)
	if err != nil {
		r.errorf(st.line, "explain %+v: %v", question, err)
		return
	}
	for i := range outs {
		o := &outs[i]
		if q.method == "TCP" && a.Allowed && o.instance() == "nobody" {
			continue // nothing was read in this conversation: no telling who was there
		}
		if why := disagreement(r, question.From, a, o); why != "" {
			r.errorf(st.line, "%s; it happened: %s\nexplain: allowed=%v status=%d flag=%s\n%s", why, o, a.Allowed, a.Status, a.Flag, steps(a))
			return
		}
	}
}

// ask puts explain's question to an authorizer past its sidecar, as the
// control plane of one machine does.
func (r *runner) ask(workload string, port uint16, f *ir.ExtAuthz, e *authz.External) authz.Verdict {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if f.Rego != nil {
		return rego.DecideOnce(ctx, f, e)
	}
	name, _, _ := strings.Cut(workload, ".") // of its namespace, which scripts do without
	return extauthz.AskOnce(ctx, f, func(ctx context.Context) (net.Conn, error) {
		return r.world.pods[name].host.dial(ctx, netip.AddrPortFrom(loopback, port))
	}, e)
}

func steps(a *explain.Answer) string {
	var b strings.Builder
	for _, s := range a.Steps {
		fmt.Fprintf(&b, "  %s: %s\n", s.Step, s.Outcome)
	}
	return b.String()
}

// disagreement between an answer and an outcome; "" for none. Of several ends
// one must be what happened.
func disagreement(r *runner, from string, a *explain.Answer, o *outcome) (why string) {
	if a.Ends == nil {
		return otherEnd(r, from, a, o)
	}
	for _, e := range a.Ends {
		end := *a
		end.Allowed, end.Leaves, end.Status, end.Flag = e.Allowed, e.Leaves, e.Status, e.Flag
		if why = otherEnd(r, from, &end, o); why == "" {
			return ""
		}
	}
	return why
}

// otherEnd is disagreement with the one end that a names.
func otherEnd(r *runner, from string, a *explain.Answer, o *outcome) string {
	reached := o.instance() != "nobody"
	switch {
	case a.Flag == "UC": // the callee closes: who has a sidecar reads 503, or a TCP connection's end
		if reached || o.err == nil && o.status != 0 && o.status != http.StatusServiceUnavailable {
			return "explain says that the connection is reset"
		}
		return ""
	case a.Status != 0:
		if o.status != r.world.protocol.statusOver(a.Status) || reached {
			return fmt.Sprintf("explain says that the mesh answers %d", a.Status)
		}
		if to := o.header.Get("Location"); to != "" && !strings.Contains(steps(a), ") to "+to+"\n") {
			return "explain redirects elsewhere than to " + to
		}
		return ""
	case !a.Allowed:
		if reached {
			return "explain says that it is refused"
		}
		return ""
	case reached:
		return wrongInstance(r, from, a, o.instance())
	case failure(o.err) == "reset", o.err == nil && !passing(o) && !lacksHosts(r.world.pods[from]):
		return "explain says that the application decides"
	}
	return ""
}

// passing: the mesh answered because of how the upstream behaved at that
// moment (timeout, breaker, unreachable), which explain does not foresee.
func passing(o *outcome) bool {
	return o.status == http.StatusGatewayTimeout || o.status == http.StatusServiceUnavailable && (strings.HasPrefix(o.body, "upstream connect error") || o.body == "fault filter abort")
}

// lacksHosts: outlier detection has taken somebody out, or a name has no
// address, so that nobody may be left.
func lacksHosts(p *pod) bool {
	if p == nil || p.proxy == nil {
		return false
	}
	for _, c := range p.proxy.Upstream().Clusters() {
		if t := c.Config().Type; (t == ir.StrictDNS || t == ir.LogicalDNS) && len(c.Hosts()) == 0 {
			return true
		}
		for _, h := range c.Hosts() {
			if h.Ejected() {
				return true
			}
		}
	}
	return false
}

var clusterNames = regexp.MustCompile(`outbound\|\d+\|[^|]*\|[^\s,]+`)

// externalAt names the server outside of the mesh at an address.
func (w *world) externalAt(address string) string {
	a, err := netip.ParseAddrPort(address)
	for name, e := range w.externals {
		if err == nil && e.Address == a.Addr() {
			return name
		}
	}
	return ""
}

// wrongInstance: who answered must be behind a cluster that explain names.
func wrongInstance(r *runner, from string, a *explain.Answer, instance string) string {
	var named []string
	for _, s := range a.Steps {
		if s.Step == "route" {
			named = clusterNames.FindAllString(s.Outcome, -1)
		}
	}
	if named == nil {
		return "" // passed through
	}
	snapshot := r.world.index.Snapshot(r.world.index.Node(r.world.index.Workload(from)))
	var behind []string
	for _, name := range named {
		c := snapshot.Cluster(name)
		if c != nil && c.Type != ir.EDS {
			return "" // not an endpoint that anybody knows beforehand
		}
		if set := snapshot.EndpointSet(name); set != nil {
			for _, e := range set.Endpoints {
				if p := r.world.pods[e.Workload.Instance]; p != nil && p.Gateway {
					return "" // it has routes of its own
				}
				behind = append(behind, e.Workload.Instance, r.world.externalAt(e.Address))
			}
		}
	}
	if !slices.Contains(behind, instance) {
		return fmt.Sprintf("explain names %v, which are %v", named, behind)
	}
	return ""
}

// userAgents is what net/http calls itself.
var userAgents = map[protocol]string{overH1: "Go-http-client/1.1", overH2: "Go-http-client/2.0", overHTTP2: "Go-http-client/2.0"}

// questionFor puts a script's request as a user would ask it; false for what
// passes no proxy on the caller's side.
func (r *runner) questionFor(who string, q *request) (explain.Question, bool) {
	if q.method == "TCP" && who != "outside" {
		return explain.Question{From: r.world.podsNamed(who)[0].Name, To: q.url}, true
	}
	u, err := url.Parse(q.url)
	if err != nil || u.Host == "" {
		return explain.Question{}, false
	}
	out := explain.Question{From: who, To: u.Host, Method: q.method, Path: u.RequestURI(), Headers: map[string]string{}}
	if r.world.protocol == overGRPC {
		out.Method, out.Headers["content-type"] = http.MethodPost, "application/grpc"
	}
	if q.method == "WEBSOCKET" {
		out.Method = http.MethodGet
	}
	for name, values := range q.header {
		if name == "User-Agent" && values[0] == "" { // net/http then sends none
			continue
		}
		out.Headers[name] = strings.Join(values, ",")
	}
	if agent := userAgents[r.world.protocol]; agent != "" && q.header["User-Agent"] == nil {
		out.Headers["user-agent"] = agent
	}
	if u.Port() == "" {
		out.To += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	}
	if who != "outside" {
		out.From = r.world.podsNamed(who)[0].Name
		return out, true
	}
	gw := r.world.gateway()
	if _, err := r.world.resolve(u.Hostname(), "default"); err == nil || gw == nil {
		return out, false // straight to an instance: no proxy on the caller's side
	}
	out.From, out.To, out.Address = gw.Name, u.Hostname(), r.world.outside.Address.String()
	if u.Port() != "" && q.header.Get("host") == "" {
		out.Headers["host"] = u.Host
	}
	if u.Scheme == "https" {
		out.To += ":8443"
	}
	return out, true
}
