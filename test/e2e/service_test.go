package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

const servicePods = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: api, image: api, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: legacy, namespace: shop}
spec:
  selector: {matchLabels: {app: legacy}}
  template:
    metadata: {labels: {app: legacy, sidecar.istio.io/inject: "false"}}
    spec: {containers: [{name: legacy, image: legacy, ports: [{name: http, containerPort: 8080}]}]}
`

// The address of a service leads to all its replicas, from a workload without
// a sidecar and from a sidecar that passes on what it cannot resolve; without
// endpoints it refuses at once.
func TestServiceAddresses(t *testing.T) {
	m := startOwn(t, servicePods)
	for _, tc := range []struct {
		from, url, host string
		want            string // status and curl's exit code: 7 is refused, 35 no TLS, 28 would be a time-out
	}{
		{"web", "http://api/x", "elsewhere.example", "200 0"},
		{"web", "https://api:80/x", "", "000 35"},
		{"web", "http://nobody/x", "elsewhere.example", "503 0"},
		{"web", "https://nobody:80/x", "", "000 35"},
		{"legacy", "http://nobody/x", "", "000 7"},
		{"legacy", "http://api:99/x", "", "000 7"},
	} {
		out, code := m.tulle("exec", tc.from, "--", "curl", "-sk", "-m", "5", "-o", "/dev/null", "-H", "Host: "+tc.host, "-w", "%{http_code}", tc.url)
		if got := fmt.Sprint(strings.TrimSpace(out), " ", code); got != tc.want {
			t.Errorf("%s -> %s (Host: %s): %s; want %s", tc.from, tc.url, tc.host, got, tc.want)
		}
	}
	seen := map[string]bool{}
	m.eventually(10*time.Second, func() error {
		out, _ := m.tulle("exec", "legacy", "--", "curl", "-s", "-m", "5", "http://api/x")
		seen[regexp.MustCompile(`"workload":"[^"]*"`).FindString(out)] = true
		if !seen[`"workload":"api-0"`] || !seen[`"workload":"api-1"`] {
			return fmt.Errorf("one address of two replicas is answered by %v only", seen)
		}
		return nil
	})
}
