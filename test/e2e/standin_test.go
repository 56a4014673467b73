package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// shop is a namespace of stand-ins: api in two replicas, web, legacy without a
// sidecar, and a service that nobody is behind.
const shop = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  selector: {app: api}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc-x, port: 81, targetPort: 8081}]
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
    spec: {containers: [{name: api, image: api, ports: [{name: http, containerPort: 8080}, {name: grpc-x, containerPort: 8081}]}]}
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

// Manifests alone run: stand-ins answer in every protocol, and a workload
// without a sidecar finds services too.
func TestStandIns(t *testing.T) {
	m := startOwn(t, shop)
	for _, tc := range []struct{ from, url, headers, want string }{
		{"web", "http://api/x", "", "200"},
		{"web", "http://api:81/x", "", "200"},
		{"web", "http://api:81/shop.Api/Get", "content-type: application/grpc", "200 12"},
		{"legacy", "http://api/x", "", "200"},
		{"legacy", "http://api:81/x", "", "200"},
	} {
		out, _ := m.tulle("exec", tc.from, "--", "curl", "-s", "-m", "5", "-o", "/dev/null", "-H", tc.headers, "-w", "%{http_code} %header{grpc-status}", tc.url)
		if got := strings.TrimSpace(out); got != tc.want {
			t.Errorf("%s -> %s: %q; want %q", tc.from, tc.url, got, tc.want)
		}
	}

	// What mtls verify does is nobody's call.
	before := edgesTo(m, "web")
	if out, code := m.tulle("mtls", "verify", "--to", "web"); code != 0 || !strings.Contains(out, "accepted") {
		t.Errorf("mtls verify: exit %d\n%s", code, out)
	}
	if after := edgesTo(m, "web"); after != before {
		t.Errorf("mtls verify shows among the callers:\n%s", after)
	}

	if out, code := m.tulle("describe", "svc", "nobody"); code != 0 || !strings.Contains(out, "it selects no workload") {
		t.Errorf("a service that nobody is behind: exit %d\n%s", code, out)
	}

	// A name is free in every namespace: neither network, nor DNS, nor identity
	// are shared.
	m.write("local.yaml", shop+"---\n"+strings.ReplaceAll(shop, "shop", "mall"))
	m.eventually(10*time.Second, func() error {
		for _, ns := range []string{"shop", "mall"} {
			out, _ := m.tulle("exec", "web-0."+ns, "--", "curl", "-s", "-m", "5", "http://api/x")
			if want := "URI=spiffe://cluster.local/ns/" + ns + "/sa/default"; !strings.Contains(out, want) {
				return fmt.Errorf("web in %s: no %s in %q", ns, want, out)
			}
			if out, _ := m.tulle("proxy-config", "secret", "web", "-n", ns); !strings.Contains(out, "/ns/"+ns+"/") {
				return fmt.Errorf("the certificate of web in %s is %s", ns, out)
			}
		}
		return nil
	})

	crashes(m)
}

// crashes: an application that cannot be started is not ready, and the user is
// told, again only when it has to wait longer. An edit starts it at once: of its
// command, and of a file that it reads.
func crashes(m *mesh) {
	local := func(command, code string) {
		m.write("local.yaml", shop+`---
apiVersion: v1
kind: ConfigMap
metadata: {name: crash, namespace: shop}
data: {code: "`+code+`"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: crash, namespace: shop}
spec:
  selector: {matchLabels: {app: crash}}
  template:
    metadata: {labels: {app: crash}}
    spec:
      containers: [{name: crash, image: crash, volumeMounts: [{name: config, mountPath: /config}]}]
      volumes: [{name: config, configMap: {name: crash}}]
---
apiVersion: tulle.dev/v1alpha1
kind: Local
metadata: {name: shop}
spec: {workloads: {crash: {command: `+command+`}}}
`)
	}
	said := func(want string, limit time.Duration) {
		m.t.Helper()
		m.eventually(limit, func() error {
			if out := m.out.String(); !strings.Contains(out, want) {
				return fmt.Errorf("the user is not told %q:\n%s", want, out)
			}
			return nil
		})
	}
	const reads = "[sh, -c, 'read code < $TULLE_VOLUME_CONFIG/code; exit $code']"
	local("[no-such-program]", "")
	said("crash-0: app ended (exit status 127), again in 250ms. See why with: tulle logs crash-0\n", 10*time.Second)
	said("crash-0: app ended 5 times (exit status 127), again in 4s\n", 20*time.Second)
	local(reads, "5")
	said("crash-0: app ended (exit status 5), again in 250ms.", 5*time.Second) // not after 8 s
	said("crash-0: app ended 6 times (exit status 5), again in 8s\n", 20*time.Second)
	local(reads, "6")
	said("crash-0: app ended (exit status 6), again in 250ms.", 5*time.Second)
}

func edgesTo(m *mesh, workload string) string {
	out, _ := m.tulle("mtls", "edges", "--to", workload, "-o", "json")
	return out
}
