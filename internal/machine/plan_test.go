package machine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Who gets a sidecar, as Istio's webhook decides, and which namespaces are
// worth a warning because nobody there does.
func TestInjection(t *testing.T) {
	const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api%s}}
    spec: {containers: [{name: api, image: api, ports: [{containerPort: 80}]}]}
`
	for _, tc := range []struct {
		name, namespace, pod string
		sidecar, warned      bool
	}{
		{"nobody says anything", "", "", false, true},
		{"labels of others", "team: a", "", false, true},
		{"enabled", "istio-injection: enabled", "", true, false},
		{"disabled", "istio-injection: disabled", "", false, false},
		{"a revision", "istio.io/rev: stable", "", true, false},
		{"disabled beside a revision", "istio-injection: disabled, istio.io/rev: stable", "", false, false},
		{"the pod's own word", "", `, sidecar.istio.io/inject: "true"`, true, false},
		{"the pod's own word against", "istio-injection: enabled", `, sidecar.istio.io/inject: "false"`, false, false},
		{"only the pod says no", "", `, sidecar.istio.io/inject: "false"`, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := fmt.Sprintf(deployment, tc.pod)
			if tc.namespace != "" {
				text += "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {" + tc.namespace + "}}\n"
			}
			set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: []byte(text)}})
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			planned, problems := Planned(set)
			if got := planned.Workloads[0].Sidecar; got != tc.sidecar {
				t.Errorf("sidecar: %t", got)
			}
			warned := len(problems) == 1 && strings.HasPrefix(problems[0].String(), "in.yaml:3: Deployment shop/api: metadata.namespace: namespace shop does not ask")
			if warned != tc.warned || !warned && len(problems) > 0 {
				t.Errorf("problems %v", problems)
			}
		})
	}
}
