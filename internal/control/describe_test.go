package control

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const faulty = `apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  gateways: [mesh, nowhere]
  http: [{route: [{destination: {host: api}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: other, namespace: shop}
spec: {host: other}
`

func describing(t *testing.T) http.Handler {
	t.Helper()
	set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: []byte(faulty)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	set.Workloads = []*resource.Workload{{Name: "api-0", Namespace: "shop", Owner: "api", OwnerKind: "Deployment", Labels: map[string]string{"app": "api"}, Sidecar: true, Ready: true}}
	c := New(Options{Log: slog.New(slog.DiscardHandler)})
	c.state.Store(&State{Set: set, Index: compile.Prepare(set), read: []resource.Problem{
		{Severity: resource.Error, Origin: set.Services[0].Origin(), Reason: "of the file"},
		{Severity: resource.Error, Origin: (&resource.Meta{Kind: "Deployment", Namespace: "shop", Name: "api"}).Origin(), Reason: "of the template"},
	}})
	return c.Handler()
}

// A page has the problems of the objects that it names, and of no others.
func TestDescribeProblems(t *testing.T) {
	h := describing(t)
	for path, want := range map[string][]string{
		"service/api":                     {"of the file", "no Gateway nowhere"},
		"service/api.shop?namespace=shop": {"of the file", "no Gateway nowhere"},
		"pod/api-0":                       {"of the file", "of the template", "no Gateway nowhere"},
		"pod/api?namespace=shop":          {"of the file", "of the template", "no Gateway nowhere"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/describe/"+path, nil))
		var pages []struct{ Problems []resource.Problem }
		if err := json.Unmarshal(w.Body.Bytes(), &pages); err != nil || len(pages) != 1 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		if len(pages[0].Problems) != len(want) {
			t.Errorf("%s: %v, want %v", path, pages[0].Problems, want)
			continue
		}
		for i, p := range pages[0].Problems {
			if !strings.Contains(p.String(), want[i]) {
				t.Errorf("%s: problem %s, want %s", path, p, want[i])
			}
		}
	}
}

func TestDescribeUnknown(t *testing.T) {
	h := describing(t)
	for path, want := range map[string]string{
		"service/nobody":            `no service "nobody"; there are: api.shop`,
		"service/api?namespace=abc": `no service "api" in namespace abc; there are: api.shop`,
		"pod/nobody":                `no pod "nobody"; there are: api-0.shop`,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/describe/"+path, nil))
		if w.Code != http.StatusNotFound || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s, want 404 %s", path, w.Code, w.Body, want)
		}
	}
}
