package opa

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The REST API answers questions; nobody changes policy or data through it.
func TestRESTOnlyAsks(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.rego"), []byte("package envoy.authz\n\ndefault allow := false\n\nallow if input.open\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := NewEngine("envoy/authz/allow")
	if err := e.Load([]string{dir}); err != nil {
		t.Fatal(err)
	}
	const open = "package envoy.authz\n\ndefault allow := true\n"
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/data/envoy/authz/allow", `{"input": {"open": true}}`, 200, `"result":true`},
		{"PUT", "/v1/policies/policy.rego", open, 405, "invalid_operation"},
		{"DELETE", "/v1/policies/policy.rego", "", 405, "invalid_operation"},
		{"PUT", "/v1/data/envoy", `{"authz": {"allow": true}}`, 405, ""},
		{"PATCH", "/v1/data", `[{"op": "add", "path": "/x", "value": 1}]`, 405, ""},
		{"POST", "/v1/query", `{"query": "x = 1"}`, 404, "resource_not_found"},
		{"POST", "/v1/data/envoy/authz/allow", `{"input": {}}`, 200, `"result":false`},
	} {
		w := httptest.NewRecorder()
		e.Handler().ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		body := strings.ReplaceAll(w.Body.String(), ": ", ":")
		if w.Code != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d with %s", c.method, c.path, w.Code, body, c.status, c.want)
		}
	}
	if w := httptest.NewRecorder(); true {
		e.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/data/envoy/authz/allow", strings.NewReader(strings.Repeat("x", maxRESTBody+1))))
		if w.Code < 400 {
			t.Errorf("a body beyond the limit is answered %d", w.Code)
		}
	}
}
