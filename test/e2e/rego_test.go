package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The overlay has no OPA: the orchestrator's sidecars decide, as OPA would.
func TestRegoInTheSidecar(t *testing.T) {
	m := startOverlay(t, "opa-in-sidecar")
	throughTheGateway(m)
	if out, code := m.tulle("logs", "opa"); code == 0 {
		t.Errorf("there is an OPA: %s", out)
	}
	before := m.edit("base/opa/policy.rego", "default allow := false", "default allow := := false")
	m.eventually(10*time.Second, func() error {
		if log := m.log() + m.out.String(); !strings.Contains(log, "policy.rego:9: rego_parse_error") {
			return fmt.Errorf("no error with its position")
		}
		return nil
	})
	url := "http://" + m.gateway + "/api/jobs"
	if got, _ := m.call("viewer", "GET", url, ""); got != 200 {
		t.Errorf("the old policy decides no more: %d", got)
	}
	if got, _ := m.call("", "GET", url, ""); got != 403 {
		t.Errorf("the old policy decides no more: %d", got)
	}
	m.write("base/opa/policy.rego", strings.Replace(before, `"viewer": {"GET", "HEAD"}`, `"viewer": {"HEAD"}`, 1))
	m.eventually(10*time.Second, func() error {
		if got, _ := m.call("viewer", "GET", url, ""); got != 403 {
			return fmt.Errorf("the new policy is not in force: %d", got)
		}
		return nil
	})
}
