package proxy

import (
	"strconv"
	"sync"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// routeKey names the counters of routes with a statPrefix, as Envoy's
// vhost.NAME.route.PREFIX does.
type routeKey struct{ vhost, prefix string }

// routeStats counts requests of the routes that share a routeKey.
type routeStats struct {
	total, retries, timeouts telemetry.Counter
	classes                  [6]telemetry.Counter // by the first digit of the status; 0: none was sent
}

// routeCounters keeps the counters of every route with a statPrefix that any
// snapshot has had: their number is bounded by what users configure.
type routeCounters struct {
	mu    sync.Mutex
	byKey map[routeKey]*routeStats // guarded by mu
}

// bind finds or makes the counters of a snapshot's routes.
func (c *routeCounters) bind(tables []*ir.RouteTable) map[*ir.Route]*routeStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out map[*ir.Route]*routeStats
	for _, t := range tables {
		for _, v := range t.VirtualHosts {
			for _, r := range v.Routes {
				if r.StatPrefix == "" {
					continue
				}
				key := routeKey{v.Name, r.StatPrefix}
				if c.byKey == nil {
					c.byKey = map[routeKey]*routeStats{}
				}
				if c.byKey[key] == nil {
					c.byKey[key] = &routeStats{}
				}
				if out == nil {
					out = map[*ir.Route]*routeStats{}
				}
				out[r] = c.byKey[key]
			}
		}
	}
	return out
}

func (s *routeStats) count(r *telemetry.Record) {
	s.total.Add(1)
	if r.Attempts > 1 {
		s.retries.Add(int64(r.Attempts - 1))
	}
	if r.Flags&telemetry.UpstreamRequestTimeout != 0 {
		s.timeouts.Add(1)
	}
	if class := r.Status / 100; class < len(s.classes) {
		s.classes[class].Add(1)
	}
}

func (c *routeCounters) collect(e *telemetry.Exposition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, s := range c.byKey {
		labels := []string{"envoy_virtual_host", key.vhost, "envoy_route", key.prefix}
		e.Add("counter", "envoy_vhost_route_upstream_rq_total", float64(s.total.Value()), labels...)
		e.Add("counter", "envoy_vhost_route_upstream_rq_retry", float64(s.retries.Value()), labels...)
		e.Add("counter", "envoy_vhost_route_upstream_rq_timeout", float64(s.timeouts.Value()), labels...)
		for class := range s.classes {
			if n := s.classes[class].Value(); n > 0 && class > 0 {
				e.Add("counter", "envoy_vhost_route_upstream_rq_xx", float64(n), append(labels, "envoy_response_code_class", strconv.Itoa(class))...)
			}
		}
	}
}
