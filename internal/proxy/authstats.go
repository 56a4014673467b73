package proxy

import (
	"strconv"
	"sync"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// maxAuthzSeries bounds the policies that are counted by name: what a mesh of
// any size has on one workload, and no endless stream of edits can exceed.
const maxAuthzSeries = 4096

// authzCounters count what AUDIT and dry-run policies say; requests that none
// of them sees do not come here, and refusals are counted with the denials.
type authzCounters struct {
	mu     sync.Mutex
	series map[authzSeries]*telemetry.Counter // guarded by mu
}

// authzSeries is one line: a policy that marked, the result of the dry-run
// policies of an action, or the verdict with all of them.
type authzSeries struct{ metric, label, value, result string }

func (c *authzCounters) count(s authzSeries) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.series[s]
	if n == nil {
		if len(c.series) >= maxAuthzSeries {
			s.value = "other"
			n = c.series[s]
		}
		if n == nil {
			n = &telemetry.Counter{}
			if c.series == nil {
				c.series = map[authzSeries]*telemetry.Counter{}
			}
			c.series[s] = n
		}
	}
	n.Add(1)
}

func (c *authzCounters) collect(e *telemetry.Exposition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, n := range c.series {
		labels := []string{s.label, s.value}
		if s.result != "" {
			labels = append(labels, "authz_dry_run_result", s.result)
		}
		e.Add("counter", s.metric, float64(n.Value()), labels...)
	}
}

// rbacMetric is the name that Envoy's RBAC filter counts under at a port of
// Istio's: the prefix of its statistics is "inbound_0.0.0.0_PORT;" for requests.
func (d *downstream) rbacMetric(c *chain) string {
	switch {
	case c.HTTP == nil:
		return "envoy_tcp_rbac"
	case c.outbound:
		return "envoy_http_outbound_0_0_0_0_" + strconv.Itoa(int(d.local.Port())) + "_rbac"
	}
	return "envoy_http_inbound_0_0_0_0_" + strconv.Itoa(int(d.local.Port())) + "_rbac"
}

// judged puts into the record and the metrics what a decision says beside its
// verdict. c is the chain that decided; the connection may follow another one by now.
func (d *downstream) judged(c *chain, decision *authz.Decision, r *telemetry.Record) {
	d.p.judged(decision, r, d.rbacMetric(c))
}

func (p *Proxy) judged(d *authz.Decision, r *telemetry.Record, metric string) {
	if d.Audit != "" {
		r.Authorization.Audit = d.Audit
		p.authz.count(authzSeries{"tulle_authorization_audited_total", "policy", d.Audit, ""})
	}
	if !d.Dry.Asked() {
		return
	}
	for _, s := range []struct {
		action ir.Action
		label  string
		from   *authz.Shadow
		to     *telemetry.Shadow
	}{{ir.Deny, "deny", &d.Dry.Deny, &r.Authorization.Deny}, {ir.Allow, "allow", &d.Dry.Allow, &r.Authorization.Allow}} {
		if !s.from.Asked {
			continue
		}
		*s.to = telemetry.Shadow{Result: "denied", Policy: s.from.Policy}
		if d.Dry.Allowed(s.action) {
			s.to.Result = "allowed"
		}
		p.authz.count(authzSeries{metric, "authz_dry_run_action", s.label, s.to.Result})
	}
	r.Authorization.Would = "deny"
	if d.Would() {
		r.Authorization.Would = "allow"
	}
	p.authz.count(authzSeries{"tulle_authorization_dry_run_total", "verdict", r.Authorization.Would, ""})
	p.log.Debug("dry-run policies", "verdict", r.Authorization.Would, "now", d.Allow, "deny", r.Authorization.Deny, "allow", r.Authorization.Allow)
}
