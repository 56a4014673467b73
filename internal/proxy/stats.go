package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// proxyStats counts what belongs to no route or cluster.
type proxyStats struct {
	connections, connectionsShed, refused telemetry.Counter
	handshakeErrors, protocolErrors       telemetry.Counter
	requestsShed, connectionsOverload     telemetry.Counter
	acceptErrors, requests, rests         telemetry.Counter
	http2                                 http2Stats
	peers                                 telemetry.PeerRefusals
	aborts, delays                        telemetry.Counter // faults
	originValid, originInvalid            telemetry.Counter // CORS
	faultsActive                          atomic.Int64
}

// http2Stats sums up what peers did wrong on HTTP/2 connections that have ended.
type http2Stats struct {
	mu  sync.Mutex
	sum h2.Stats // guarded by mu
}

func (s *http2Stats) add(x h2.Stats) {
	if x == (h2.Stats{}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.sum
	for _, c := range []struct {
		to   *uint64
		more uint64
	}{
		{&t.RapidResets, x.RapidResets}, {&t.ControlFlood, x.ControlFlood}, {&t.WindowFlood, x.WindowFlood}, {&t.HeaderFlood, x.HeaderFlood},
		{&t.OutputFlood, x.OutputFlood}, {&t.ProtocolErrors, x.ProtocolErrors}, {&t.StreamErrors, x.StreamErrors}, {&t.HeadersTooLarge, x.HeadersTooLarge},
		{&t.Refused, x.Refused}, {&t.ResetsReceived, x.ResetsReceived}, {&t.WriteStalls, x.WriteStalls}, {&t.PingTimeouts, x.PingTimeouts},
	} {
		*c.to += c.more
	}
}

// collect exposes them under Envoy's names where it has one.
func (s *http2Stats) collect(e *telemetry.Exposition) {
	s.mu.Lock()
	t := s.sum
	s.mu.Unlock()
	for name, v := range map[string]uint64{
		"envoy_http2_rapid_resets":                 t.RapidResets,
		"envoy_http2_inbound_control_frames_flood": t.ControlFlood,
		"envoy_http2_inbound_window_update_flood":  t.WindowFlood,
		"envoy_http2_inbound_header_flood":         t.HeaderFlood,
		"envoy_http2_outbound_control_flood":       t.OutputFlood,
		"envoy_http2_protocol_errors":              t.ProtocolErrors,
		"envoy_http2_tx_reset_for_stream_error":    t.StreamErrors,
		"envoy_http2_header_overflow":              t.HeadersTooLarge,
		"envoy_http2_streams_refused":              t.Refused,
		"envoy_http2_rx_reset":                     t.ResetsReceived,
		"envoy_http2_tx_flush_timeout":             t.WriteStalls,
		"envoy_http2_keepalive_timeout":            t.PingTimeouts,
	} {
		e.Add("counter", name, float64(v))
	}
}

// Collect implements telemetry.Collector.
func (p *Proxy) Collect(e *telemetry.Exposition) {
	p.metrics.Collect(e)
	p.upstream.Collect(e)
	p.routeCounters.collect(e)
	p.authz.collect(e)
	p.denials.collect(e)
	s := &p.stats
	s.http2.collect(e)
	s.peers.Collect(e, "downstream")
	e.Add("gauge", "envoy_listener_downstream_cx_active", float64(p.conns.count()))
	e.Add("gauge", "envoy_http_fault_active_faults", float64(s.faultsActive.Load()))
	for name, c := range map[string]*telemetry.Counter{
		"envoy_listener_downstream_cx_total":           &s.connections,
		"envoy_listener_downstream_cx_overflow":        &s.connectionsShed,
		"envoy_listener_no_filter_chain_match":         &s.refused,
		"envoy_listener_ssl_connection_error":          &s.handshakeErrors,
		"envoy_http_downstream_cx_protocol_err":        &s.protocolErrors,
		"envoy_http_downstream_rq_total":               &s.requests,
		"tulle_listener_accept_errors_total":           &s.acceptErrors,
		"envoy_http_fault_aborts_injected":             &s.aborts,
		"envoy_http_fault_delays_injected":             &s.delays,
		"envoy_http_cors_origin_valid":                 &s.originValid,
		"envoy_http_cors_origin_invalid":               &s.originInvalid,
		"tulle_mirror_requests_total":                  &p.mirrors.total,
		"tulle_mirror_requests_dropped_total":          &p.mirrors.dropped,
		"tulle_mirror_requests_failed_total":           &p.mirrors.failed,
		"envoy_listener_downstream_cx_overload_reject": &s.connectionsOverload,
		"envoy_http_downstream_rq_overload_close":      &s.requestsShed,
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
