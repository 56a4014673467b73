package meshtest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/telemetry"
)

const narrow = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: worker, namespace: shop}
spec:
  host: worker
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 6, connectTimeout: 200ms}
      http: {http1MaxPendingRequests: 5, http2MaxRequests: 20, maxRetries: 3, maxRequestsPerConnection: 7, idleTimeout: 30s}
    outlierDetection: {consecutive5xxErrors: 4, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 60}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: worker, namespace: shop}
spec:
  hosts: [worker]
  http:
  - timeout: 900ms
    retries: {attempts: 2, perTryTimeout: 300ms, retryOn: "5xx,reset,connect-failure"}
    route: [{destination: {host: worker}}]
`

// TestFaultsLeaveNothing lets applications, callers and the network misbehave
// at random. Whatever happened to a request, in the end every place that it
// took is given back: no gauge of any proxy stays up.
func TestFaultsLeaveNothing(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { misbehave(t, rand.New(rand.NewPCG(seed, 11))) })
		})
	}
}

func misbehave(t *testing.T, random *rand.Rand) {
	w := shopWorld(t, narrow)
	defer w.close()
	r := &runner{t: t, script: &script{file: "faults"}, world: w, started: map[string]*running{}}
	var requests sync.WaitGroup
	statuses := map[string]int{}
	var mu sync.Mutex
	for i := range 1500 {
		if i%10 == 0 {
			fault(t, r, random)
		}
		pause(t.Context(), time.Duration(random.IntN(10))*time.Millisecond)
		q := randomRequest(random)
		from := w.podsNamed([]string{"web", "db", "legacy"}[random.IntN(3)])[0].client
		requests.Go(func() {
			o := from.do(q, fmt.Sprint(i))
			mu.Lock()
			defer mu.Unlock()
			statuses[fmt.Sprint(o.status, failure(o.err))]++
		})
	}
	for _, p := range []string{"worker", "web"} {
		if err := r.network(p, "normal"); err != nil {
			t.Fatal(err)
		}
		if err := r.behave(p, "normal"); err != nil {
			t.Fatal(err)
		}
	}
	requests.Wait()
	if len(statuses) < 4 {
		t.Errorf("not much happened: %v", statuses)
	}
	for _, p := range w.pods {
		p.client.close()
	}
	pause(t.Context(), 3*time.Hour) // longer than any idle timeout
	for name, p := range w.pods {
		for _, line := range gauges(p) {
			t.Errorf("%s: %s (%v)", name, line, statuses)
		}
	}
	// And it still works.
	for range 20 {
		if o := w.pods["web-0"].client.do(&request{method: "GET", url: "http://worker:8000/", header: http.Header{}}, "last"); o.status != 200 {
			t.Errorf("afterwards: %s", &o)
		}
	}
}

func randomRequest(random *rand.Rand) *request {
	q := &request{method: []string{"GET", "POST", "PUT"}[random.IntN(3)], url: "http://worker:8000/", header: http.Header{}}
	if q.method != "GET" {
		q.body = make([]byte, []int{0, 10, 1000, 100_000, 400_000}[random.IntN(5)])
		q.chunked = random.IntN(2) == 0
	}
	if random.IntN(4) == 0 {
		q.timeout = time.Duration(1+random.IntN(500)) * time.Millisecond
	}
	return q
}

// fault changes how one instance, or its network, behaves.
func fault(t *testing.T, r *runner, random *rand.Rand) {
	t.Helper()
	name := fmt.Sprintf("worker-v%d-%d", 1+random.IntN(2), random.IntN(2))
	what := []string{"normal", "normal", "status 500", "status 503", "reset", "close", "close after response", "breaks off", "answers early", "delay 50ms", "delay 400ms", "delay 2s", "body 700000 bytes"}
	network := []string{"normal", "normal", "normal", "refuses connections", "drops packets", "delays 5ms"}
	var err error
	if random.IntN(3) == 0 {
		err = r.network(name, network[random.IntN(len(network))])
	} else {
		err = r.behave(name, what[random.IntN(len(what))])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// gauges are the samples of a proxy that should be zero when nothing goes on.
func gauges(p *pod) []string {
	if p.proxy == nil {
		return nil
	}
	var e telemetry.Exposition
	p.proxy.Collect(&e)
	var text strings.Builder
	_, _ = e.WriteTo(&text)
	var out []string
	for _, line := range strings.Split(text.String(), "\n") {
		for _, name := range []string{"envoy_cluster_upstream_cx_active", "envoy_cluster_upstream_rq_active", "envoy_cluster_upstream_rq_pending_active", "envoy_cluster_outlier_detection_ejections_active", "envoy_listener_downstream_cx_active"} {
			if strings.HasPrefix(line, name) && !strings.HasSuffix(line, " 0") {
				out = append(out, line)
			}
		}
	}
	return out
}
