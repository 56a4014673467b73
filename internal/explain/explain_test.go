package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const manifests = `
apiVersion: v1
kind: Service
metadata: {name: worker, namespace: shop}
spec:
  clusterIP: 10.96.0.2
  selector: {app: worker}
  ports: [{name: http, port: 8000, targetPort: 8080}, {name: tls, port: 9443, targetPort: 8443}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: worker, namespace: shop}
spec:
  hosts: [worker, "*.example"]
  http:
    - name: moved
      match: [{uri: {prefix: /old/}}]
      redirect: {prefixRewrite: /new/, authority: other.example, redirectCode: 308}
    - name: broken
      match: [{uri: {prefix: /broken}}]
      fault: {delay: {fixedDelay: 2s, percentage: {value: 10}}, abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: worker, port: {number: 8000}}}]
    - name: jobs
      match: [{uri: {prefix: /jobs}}]
      delegate: {name: jobs}
    - name: rest
      rewrite: {uri: /api/, authority: inner.example}
      retries: {attempts: 1, retryOn: "5xx,429", perTryTimeout: 1s}
      route: [{destination: {host: worker, port: {number: 8000}}}]
  tls:
    - match: [{port: 9443, sniHosts: ["*.example"]}]
      route: [{destination: {host: worker, port: {number: 8000}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: z-late, namespace: shop}
spec: {hosts: [worker], http: [{route: [{destination: {host: worker, port: {number: 8000}}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: jobs, namespace: shop}
spec:
  http:
    - name: all
      corsPolicy: {allowOrigins: [{exact: "https://a.example"}]}
      mirror: {host: worker, port: {number: 8000}}
      mirrorPercentage: {value: 2.5}
      route: [{destination: {host: worker, port: {number: 8000}}}]
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: shop}
spec:
  clusterIP: 10.96.0.3
  selector: {app: worker}
  ports: [{name: grpc, port: 50051}, {name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: shop}
spec:
  clusterIP: 10.96.0.4
  selector: {app: legacy}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: legacy, namespace: shop}
spec: {host: legacy, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
apiVersion: v1
kind: Service
metadata: {name: own, namespace: shop}
spec:
  clusterIP: 10.96.0.5
  selector: {app: worker}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 81, targetPort: 7000}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: own, namespace: shop}
spec: {host: own, trafficPolicy: {tls: {mode: SIMPLE}}}
`

func ask(t *testing.T, q Question) string {
	t.Helper()
	set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: []byte(manifests)}})
	for _, p := range problems {
		t.Fatal(p)
	}
	for i, name := range []string{"web", "worker", "legacy"} {
		set.Workloads = append(set.Workloads, &resource.Workload{Name: name + "-0", Namespace: "shop", Owner: name, Labels: map[string]string{"app": name},
			Address: netip.AddrFrom4([4]byte{10, 244, 0, byte(i + 1)}), Ready: true, Sidecar: name != "legacy", ServiceAccount: "default"})
	}
	q.From = "web"
	a, err := Explain(compile.Prepare(set), q, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range a.Steps {
		fmt.Fprintf(&b, "%s: %s [%d]\n", s.Step, s.Outcome, s.Origin.Line)
	}
	for _, s := range a.Steps {
		for _, m := range s.Missed {
			fmt.Fprintf(&b, "not %s: %s [%d]\n", m.What, m.Why, m.Origin.Line)
		}
	}
	fmt.Fprintf(&b, "=> %t %d %s\nleaves %t\n", a.Allowed, a.Status, a.Flag, a.Leaves)
	return b.String()
}

func TestRouteSteps(t *testing.T) {
	for name, tc := range map[string]struct {
		q    Question
		want []string
	}{
		"redirect": {Question{To: "worker:8000", Path: "/old/x?y=1"}, []string{
			"route: route moved redirects (308) to http://other.example/new/x?y=1 [17]", "=> false 308"}},
		"fault": {Question{To: "worker:8000", Path: "/broken"}, []string{
			"fault: 10% of the requests are delayed by 2s [21]", "fault: 100% of the requests are aborted with 418 [21]", "=> false 418 FI"}},
		"delegate, cors and mirror": {Question{To: "worker:8000", Path: "/jobs/1", Headers: map[string]string{"origin": "https://a.example"}}, []string{
			"delegate: the root leaves the request to VirtualService shop/jobs (in.yaml:44) [23]", "route: route jobs-all to outbound|8000||worker.shop.svc.cluster.local [",
			"cors: origin https://a.example may read the response [45]", "mirror: 2.5% of the requests are copied to outbound|8000||worker.shop.svc.cluster.local; its answers are thrown away [46]", "=> true"}},
		"preflight": {Question{To: "worker:8000", Method: "OPTIONS", Path: "/jobs/1", Headers: map[string]string{"origin": "https://a.example", "access-control-request-method": "GET"}}, []string{
			"cors: the preflight is answered by the proxy; origin https://a.example allowed: true [45]", "=> false 200"}},
		"rewrite and retries": {Question{To: "worker:8000", Path: "/x"}, []string{
			"path rewritten to /api/x, host rewritten to inner.example [26]", "retry: up to 1 more tries on 5xx,retriable-status-codes: 429, each at most 1s [28]", "=> true"}},
		"rival": {Question{To: "worker:8000", Path: "/x"}, []string{
			"not VirtualService shop/z-late: sidecars use one VirtualService for a host, the oldest (creationTimestamp, then name, then namespace): shop/worker [37]"}},
		"a port that is not there": {Question{To: "worker:9999"}, []string{
			"route: no service listens on port 9999: passed through as bytes; service worker has no port 9999, only [8000 9443]", "leaves true"}},
		"a name that is not there": {Question{To: "wroker:8000"}, []string{
			"cluster: PassthroughCluster: outside the mesh; no service or ServiceEntry is called wroker", "leaves true"}},
		"mutual TLS with nobody": {Question{To: "legacy"}, []string{
			"mtls: legacy-0 has no sidecar, and the caller insists on mutual TLS: the handshake fails [69]", "=> false 503 UF"}},
		"own TLS with a sidecar": {Question{To: "own:80"}, []string{
			"mtls: worker-0's sidecar takes mutual TLS of the mesh only, and the caller uses TLS of its own (SIMPLE): the handshake fails [82]", "=> false 503 UF"}},
		"own TLS with an application": {Question{To: "own:81"}, []string{
			"mtls: the caller uses TLS of its own (SIMPLE), which passes through as it is: whether the application speaks it is not known [82]", "=> true", "leaves true"}},
		"an address outside":                       {Question{To: "192.0.2.1:8000"}, []string{"cluster: PassthroughCluster: outside the mesh [0]", "leaves true"}},
		"of several ports the one of HTTP":         {Question{To: "shop"}, []string{"to outbound|80||shop.shop.svc.cluster.local", "leaves false"}},
		"defaults":                                 {Question{To: "worker:8000", Path: "/jobs/1"}, []string{"retriable-status-codes, the default of Istio (latest) [0]"}},
		"server name of the service is not routed": {Question{To: "worker:9443"}, []string{"route: no filter chain takes server name worker: the connection is closed", "=> false 0 NR"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(t, tc.q)
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("lacks %q:\n%s", w, got)
				}
			}
		})
	}
}
