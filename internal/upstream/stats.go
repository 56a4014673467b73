package upstream

import (
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

type stats struct {
	connections, connectFail                             telemetry.Counter
	connectionOverflow, pendingOverflow, requestOverflow telemetry.Counter
	retry, retryOverflow, ejections, ejectionOverflow    telemetry.Counter
	dnsAttempts, dnsFailures                             telemetry.Counter
}

// collect exposes the cluster under Envoy's stat names.
func (c *Cluster) collect(e *telemetry.Exposition) {
	add := func(kind, name string, v int64) {
		e.Add(kind, "envoy_cluster_"+name, float64(v), "cluster_name", c.Name)
	}
	var ejected, healthy int64
	set := c.hosts.Load()
	for _, h := range set.all {
		if h.Ejected() {
			ejected++
		}
		if h.usable() {
			healthy++
		}
	}
	add("gauge", "membership_total", int64(len(set.all)))
	add("gauge", "membership_healthy", healthy)
	add("gauge", "upstream_cx_active", c.connections.Load())
	add("gauge", "upstream_rq_active", c.requests.Load())
	add("gauge", "upstream_rq_pending_active", c.pending.Load())
	add("gauge", "upstream_rq_retry_active", c.retries.Load())
	add("gauge", "outlier_detection_ejections_active", ejected)
	add("counter", "upstream_cx_total", c.stats.connections.Value())
	add("counter", "upstream_cx_connect_fail", c.stats.connectFail.Value())
	add("counter", "upstream_cx_overflow", c.stats.connectionOverflow.Value())
	add("counter", "upstream_rq_pending_overflow", c.stats.pendingOverflow.Value()+c.stats.requestOverflow.Value())
	add("counter", "upstream_rq_retry", c.stats.retry.Value())
	add("counter", "upstream_rq_retry_overflow", c.stats.retryOverflow.Value())
	add("counter", "outlier_detection_ejections_enforced_total", c.stats.ejections.Value())
	add("counter", "outlier_detection_ejections_overflow", c.stats.ejectionOverflow.Value())
	conf := c.conf.Load()
	if conf.Type == ir.StrictDNS || conf.Type == ir.LogicalDNS {
		add("counter", "update_attempt", c.stats.dnsAttempts.Value())
		add("counter", "update_failure", c.stats.dnsFailures.Value())
	}
	if b := conf.Breaker; b != ir.DefaultBreaker() || conf.RetryBudget != nil {
		remaining := func(limit uint32, used int64) int64 { return max(0, int64(limit)-used) }
		open := func(limit uint32, used int64) int64 {
			if used >= int64(limit) {
				return 1
			}
			return 0
		}
		add("gauge", "circuit_breakers_default_cx_open", open(b.MaxConnections, c.connections.Load()))
		add("gauge", "circuit_breakers_default_rq_pending_open", open(b.MaxPendingRequests, c.pending.Load()))
		add("gauge", "circuit_breakers_default_rq_open", open(b.MaxRequests, c.requests.Load()))
		add("gauge", "circuit_breakers_default_rq_retry_open", open(uint32(min(c.retryLimit(conf), int64(ir.Unlimited))), c.retries.Load()))
		add("gauge", "circuit_breakers_default_remaining_cx", remaining(b.MaxConnections, c.connections.Load()))
		add("gauge", "circuit_breakers_default_remaining_pending", remaining(b.MaxPendingRequests, c.pending.Load()))
		add("gauge", "circuit_breakers_default_remaining_rq", remaining(b.MaxRequests, c.requests.Load()))
		add("gauge", "circuit_breakers_default_remaining_retries", max(0, c.retryLimit(conf)-c.retries.Load()))
	}
}
