package opa_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/opa"
)

// The example's policy passes its own tests, as `opa test` would run them.
func TestResearchFlowPolicy(t *testing.T) {
	results, err := opa.Test(t.Context(), []string{"../../infrastructure/kubernetes/base/opa/policy.rego", "../../infrastructure/kubernetes/base/opa/policy_test.rego", "../../infrastructure/kubernetes/base/opa/data.json"})
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
