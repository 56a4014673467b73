package main

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/opa"
)

// The manifests' Rego passes its own tests, as `opa test` would run them.
func TestPolicy(t *testing.T) {
	const dir = "../../infrastructure/kubernetes/base/opa/"
	results, err := opa.Test(t.Context(), []string{dir + "policy.rego", dir + "policy_test.rego", dir + "data.json"})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 20 {
		t.Errorf("%d tests ran, want at least 20", len(results))
	}
	for _, r := range results {
		if r.Failed {
			t.Errorf("%s failed at %s %s", r.Name, r.Location, r.Detail)
		}
	}
}
