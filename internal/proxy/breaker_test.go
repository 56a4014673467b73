package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Overflow is answered 503 with flag UO and x-envoy-overloaded, and what a
// scrape sees agrees with what the breaker does.
func TestBreakerOverflow(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-leave
		}
	}), func(m *mesh) { m.snapA.Clusters[0].Breaker.MaxRequests = 1 })
	slow := make(chan int, 1)
	go func() {
		resp, err := http.Get(m.url + "/slow")
		if err != nil {
			slow <- 0
			return
		}
		resp.Body.Close()
		slow <- resp.StatusCode
	}()
	<-entered
	for name, want := range map[string]string{"rq_active": "1", "default_rq_open": "1", "default_remaining_rq": "0"} {
		if got := metric(m.a, name, `cluster_name="worker"`); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	resp, _ := m.get("/")
	if resp.StatusCode != 503 || resp.Header.Get("x-envoy-overloaded") != "true" {
		t.Errorf("%s, x-envoy-overloaded %q", resp.Status, resp.Header.Get("x-envoy-overloaded"))
	}
	if log := m.logA.wait(t, " 503 "); !strings.Contains(log, " UO ") {
		t.Errorf("no flag UO in the log:\n%s", log)
	}
	if got := metric(m.a, "pending_overflow", `cluster_name="worker"`); got != "1" {
		t.Errorf("overflows: %s", got)
	}
	close(leave)
	if got := <-slow; got != 200 {
		t.Errorf("the request that held the slot: %d", got)
	}
	if resp, _ := m.get("/"); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}

// A cluster whose hosts are told apart by priority moves to the next one when
// outlier detection has ejected the first, and no request is sent to it.
func TestFailoverByPriority(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("x-served", "second") }), func(m *mesh) {
		m.snapA.Clusters[0].Outlier = &ir.Outlier{Consecutive5xx: 1, MaxEjectionPercent: 100, Interval: ir.Duration(1 << 40), BaseEjection: ir.Duration(1 << 40)}
	})
	dead := ir.Endpoint{Address: "127.0.0.1:1"} // nobody listens there
	live := m.snapA.EndpointSet("worker").Endpoints[0]
	live.Priority = 1
	next := *m.snapA
	next.Endpoints = []*ir.EndpointSet{{Cluster: "worker", Endpoints: []ir.Endpoint{dead, live}}}
	m.apply(m.a, &next)
	if resp, _ := m.get("/"); resp.StatusCode != 503 {
		t.Fatalf("the first priority answers %s", resp.Status)
	}
	for range 10 {
		if resp, _ := m.get("/"); resp.StatusCode != 200 || resp.Header.Get("x-served") != "second" {
			t.Fatalf("after the ejection: %s", resp.Status)
		}
	}
}
