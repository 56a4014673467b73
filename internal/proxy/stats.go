package proxy

import (
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// proxyStats counts what belongs to no route or cluster.
type proxyStats struct {
	connections, connectionsShed, refused telemetry.Counter
	handshakeErrors, protocolErrors       telemetry.Counter
	requestsShed, connectionsOverload     telemetry.Counter
	acceptErrors, requests, rests         telemetry.Counter
}

// Collect implements telemetry.Collector.
func (p *Proxy) Collect(e *telemetry.Exposition) {
	p.metrics.Collect(e)
	p.upstream.Collect(e)
	s := &p.stats
	e.Add("gauge", "envoy_listener_downstream_cx_active", float64(p.conns.count()))
	for name, c := range map[string]*telemetry.Counter{
		"envoy_listener_downstream_cx_total":           &s.connections,
		"envoy_listener_downstream_cx_overflow":        &s.connectionsShed,
		"envoy_listener_downstream_cx_overload_reject": &s.connectionsOverload,
		"envoy_http_downstream_rq_overload_close":      &s.requestsShed,
		"envoy_listener_no_filter_chain_match":         &s.refused,
		"envoy_listener_ssl_connection_error":          &s.handshakeErrors,
		"envoy_http_downstream_cx_protocol_err":        &s.protocolErrors,
		"envoy_http_downstream_rq_total":               &s.requests,
		"tulle_listener_accept_errors_total":           &s.acceptErrors,
		"tulle_http_downstream_cx_rested_total":        &s.rests,
	} {
		e.Add("counter", name, float64(c.Value()))
	}
}

// httpDate formats the date header; the text of the current second is shared.
func httpDate(now time.Time) string { return dates.format(now) }

type dateCache struct {
	mu     sync.Mutex
	second int64
	text   string
}

var dates dateCache

func (d *dateCache) format(now time.Time) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := now.Unix(); s != d.second || d.text == "" {
		d.second, d.text = s, now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return d.text
}
