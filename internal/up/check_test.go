package up

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const shop = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{name: http, port: 80}, {name: tcp-a, port: 81}, {name: tcp-b, port: 82}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: api, image: api, ports: [{containerPort: 80}]}]}
`

const rules = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: made-by-up}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  http:
  - route: [{destination: {host: api, subset: v9, port: {number: 80}}}]
  - match: [{uri: {prefix: /late}}]
    route: [{destination: {host: api, port: {number: 80}}}]
`

// Check names what only a proxy's configuration shows, where there are proxies,
// and asks for no credential that up would make.
func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name, manifests string
		want            []string
	}{
		{"whole", shop + "---\n" + rules, []string{
			"in.yaml:33: VirtualService shop/api: spec.http[0].route[0].destination.subset: no DestinationRule",
			"in.yaml:34: VirtualService shop/api: spec.http[1]: can never be reached",
		}},
		{"rules alone", rules, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "in.yaml")
			if err := os.WriteFile(file, []byte(tc.manifests), 0o600); err != nil {
				t.Fatal(err)
			}
			got := Check([]string{file})
			if len(got) != len(tc.want) {
				t.Fatalf("problems %v; want %q", got, tc.want)
			}
			for i, p := range got {
				if !strings.Contains(p.String(), tc.want[i]) {
					t.Errorf("problem %s; want %q", p, tc.want[i])
				}
			}
		})
	}
}
