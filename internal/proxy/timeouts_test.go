package proxy

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func TestGRPCTimeout(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond, "6n": 6,
		"99999999S": 99999999 * time.Second, "99999999H": 1 << 62,
		"": -1, "5": -1, "S": -1, "-1S": -1, "1s": -1, "123456789S": -1, "1.5S": -1,
	} {
		d, ok := grpcTimeout(in)
		if !ok {
			d = -1
		}
		if d != want {
			t.Errorf("%q: %s, want %s", in, d, want)
		}
	}
}

// What the upstream is told of how long it has shows which timeout counts.
func TestTimeoutsOfCallers(t *testing.T) {
	for name, tc := range map[string]struct {
		route, perTry time.Duration
		edits         []func(*http.Request)
		low, high     time.Duration // of what the upstream hears; 0: nothing
	}{
		"none":                             {0, 0, nil, 0, 0},
		"route's":                          {8 * time.Second, 0, nil, 4 * time.Second, 8 * time.Second},
		"try's":                            {8 * time.Second, 2 * time.Second, nil, 2 * time.Second, 2 * time.Second},
		"try's, longer than the route's":   {8 * time.Second, 9 * time.Second, nil, 4 * time.Second, 8 * time.Second},
		"gRPC deadline":                    {0, 0, []func(*http.Request){grpcCall, sendHeader("grpc-timeout", "7S")}, 3 * time.Second, 7 * time.Second},
		"gRPC deadline within the route's": {60 * time.Second, 0, []func(*http.Request){grpcCall, sendHeader("grpc-timeout", "7S")}, 3 * time.Second, 7 * time.Second},
		"gRPC deadline beyond the route's": {8 * time.Second, 0, []func(*http.Request){grpcCall, sendHeader("grpc-timeout", "1H")}, 4 * time.Second, 8 * time.Second},
		"grpc-timeout without gRPC":        {8 * time.Second, 0, []func(*http.Request){sendHeader("grpc-timeout", "1S")}, 4 * time.Second, 8 * time.Second},
		"caller's":                         {8 * time.Second, 0, []func(*http.Request){sendHeader("x-envoy-upstream-rq-timeout-ms", "60000")}, 30 * time.Second, 60 * time.Second},
		"caller's of the try":              {60 * time.Second, 0, []func(*http.Request){sendHeader("x-envoy-upstream-rq-per-try-timeout-ms", "5000")}, 5 * time.Second, 5 * time.Second},
		"caller's none":                    {8 * time.Second, 0, []func(*http.Request){sendHeader("x-envoy-upstream-rq-timeout-ms", "0")}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("grpc-status", "0")
				if r.Header.Get("x-envoy-upstream-rq-timeout-ms") != "" {
					t.Error("the caller's header went on")
				}
				w.Header().Set("x-ms", r.Header.Get("x-envoy-expected-rq-timeout-ms"))
			}), func(m *mesh) {
				f := m.route().Forward
				f.Timeout = ir.Duration(tc.route)
				f.Retry = &ir.RetryPolicy{Attempts: 1, PerTryTimeout: ir.Duration(tc.perTry), On: []string{"reset"}}
			})
			resp, _ := m.get("/", tc.edits...)
			ms := 0
			fmt.Sscan(resp.Header.Get("x-ms"), &ms)
			if got := time.Duration(ms) * time.Millisecond; got < tc.low || got > tc.high {
				t.Errorf("the upstream hears %s, want %s to %s", got, tc.low, tc.high)
			}
		})
	}
}

// A deadline that passes ends the call with DEADLINE_EXCEEDED; which of the two
// proxies notices first does not matter.
func TestGRPCDeadlinePasses(t *testing.T) {
	release := make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}), nil)
	t.Cleanup(func() { close(release) })
	resp, _ := m.get("/", grpcCall, sendHeader("grpc-timeout", "50m"))
	if resp.StatusCode != 200 || resp.Header.Get("grpc-status") != "4" {
		t.Errorf("%s, grpc-status %q", resp.Status, resp.Header.Get("grpc-status"))
	}
}

func TestStatPrefix(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }), func(m *mesh) { m.route().StatPrefix = "jobs" })
	m.get("/")
	m.logA.wait(t, "204")
	m.apply(m.a, m.snapA) // counters survive a new snapshot
	m.get("/")
	labels := []string{`envoy_virtual_host="worker.shop:8000"`, `envoy_route="jobs"`}
	if v := metric(m.a, append(labels, "envoy_vhost_route_upstream_rq_total")...); v != "2" {
		t.Errorf("total %q", v)
	}
	if v := metric(m.a, append(labels, "envoy_vhost_route_upstream_rq_xx", `class="2"`)...); v != "2" {
		t.Errorf("2xx %q", v)
	}
}
