package explain

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/route"
)

// act says what a route does with the request, step by step and with the line
// of each; the clusters it forwards to, nil when it answers itself.
func (q *question) act(a *Answer, r *route.Route, authority, path, query string, missed []Missed) []ir.WeightedCluster {
	origin := first(r.Match.Origin, r.Origin)
	if !r.Root.IsZero() {
		a.step("delegate", "the root leaves the request to "+r.Origin.String(), r.Root)
	}
	a.step("route", q.outcome(r, authority, path, query), origin, missed...)
	if q.faults(a, r.Fault) || q.cors(a, r) {
		return nil
	}
	switch {
	case r.Redirect != nil:
		a.end(r.Redirect.Code, "")
		return nil
	case r.Direct != nil:
		a.end(r.Direct.Status, "")
		return nil
	}
	for _, m := range r.Forward.Mirrors {
		a.step("mirror", fmt.Sprintf("%s of the requests are copied to %s; its answers are thrown away", m.Share, m.Cluster), m.Origin)
	}
	q.route, q.path, q.query = r, path, query
	if p := r.Forward.Retry; p != nil && p.Attempts > 0 {
		a.step("retry", retries(p)+q.defaults(p), first(p.Origin, q.versionOrigin()))
	}
	return r.Forward.Clusters
}

// rivals are VirtualServices for the same host that are not looked at.
func (q *question) rivals(vh *ir.VirtualHost) []Missed {
	host, _, _ := strings.Cut(vh.Name, ":")
	var out []Missed
	for _, o := range q.index.Rivals(host, q.from.Namespace) {
		out = append(out, Missed{"VirtualService " + o.Namespace + "/" + o.Name, "sidecars use one VirtualService for a host, the oldest (creationTimestamp, then name, then namespace): " + vh.Origin.Namespace + "/" + vh.Origin.Name, o})
	}
	return out
}

// outcome is the route's action in one line.
func (q *question) outcome(r *route.Route, authority, path, query string) string {
	switch {
	case r.Redirect != nil:
		return fmt.Sprintf("route %s redirects (%d) to %s", r.Name, r.Redirect.Code, r.Location(q.sent.scheme, authority, path, query))
	case r.Direct != nil:
		return fmt.Sprintf("route %s is answered with %d", r.Name, r.Direct.Status)
	}
	f := r.Forward
	text := fmt.Sprintf("route %s to %s", r.Name, names(f.Clusters))
	if to := r.RewritePath(path); to != path {
		text += ", path rewritten to " + to
	}
	if f.HostRewrite != "" {
		text += ", host rewritten to " + f.HostRewrite
	}
	if f.Timeout > 0 {
		text += ", timeout " + f.Timeout.String()
	}
	return text
}

// defaults says whose default a policy is that no VirtualService wrote.
func (q *question) defaults(p *ir.RetryPolicy) string {
	version, _ := q.index.Compatibility()
	if !p.Origin.IsZero() {
		return ""
	}
	return ", the default of Istio (" + version + ")"
}

// versionOrigin is where compatibilityVersion was written.
func (q *question) versionOrigin() ir.Origin {
	_, origin := q.index.Compatibility()
	return origin
}

func retries(p *ir.RetryPolicy) string {
	text := fmt.Sprintf("up to %d more tries on %s", p.Attempts, strings.Join(p.On, ","))
	for i, c := range p.Codes {
		sep := ","
		if i == 0 {
			sep = ": "
		}
		text += sep + strconv.Itoa(c)
	}
	if p.PerTryTimeout > 0 {
		text += ", each at most " + p.PerTryTimeout.String()
	}
	return text
}

// faults reports what is injected; true when every request is aborted.
func (q *question) faults(a *Answer, f *ir.Fault) bool {
	if f == nil {
		return false
	}
	if d := f.Delay; d != nil {
		a.step("fault", fmt.Sprintf("%s of the requests are delayed by %s", d.Share, d.Fixed), d.Origin)
	}
	if f.Abort == nil {
		return false
	}
	what, status := fmt.Sprintf("with %d", f.Abort.Status), f.Abort.Status
	if status == 0 {
		what = fmt.Sprintf("with gRPC status %d", f.Abort.GRPC)
	}
	a.step("fault", fmt.Sprintf("%s of the requests are aborted %s", f.Abort.Share, what), f.Abort.Origin)
	if f.Abort.Share < ir.All {
		return false
	}
	a.end(status, "FI")
	return true
}

// cors reports what the CORS policy makes of the request; true when it is a
// preflight that the proxy answers.
func (q *question) cors(a *Answer, r *route.Route) bool {
	h := fields(q.Headers)
	origin, ok := h.Get("origin")
	if r.CORS == nil || r.Forward == nil || !ok {
		return false
	}
	allowed := r.AllowsOrigin(origin)
	asked, _ := h.Get("access-control-request-method")
	preflight := q.Method == "OPTIONS" && asked != ""
	switch {
	case preflight && (allowed || r.CORS.IgnoreUnmatched):
		a.step("cors", fmt.Sprintf("the preflight is answered by the proxy; origin %s allowed: %t", origin, allowed), r.CORS.Origin)
		a.end(200, "")
		return true
	case allowed:
		a.step("cors", "origin "+origin+" may read the response", r.CORS.Origin)
	default:
		a.step("cors", "origin "+origin+" is not allowed: the response is not decorated", r.CORS.Origin)
	}
	return false
}
