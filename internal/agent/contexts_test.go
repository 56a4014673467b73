package agent

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// A sidecar built without Rego takes no configuration that needs it, and says
// what to run instead.
func TestSidecarWithoutRego(t *testing.T) {
	o := ProxyOptions(identity.NewHolder("cluster.local"), nil)
	p, err := o.Authorizer(&ir.ExtAuthz{Provider: "gate", Rego: &ir.Rego{Name: "gate"}}, nil)
	if err == nil || !strings.Contains(err.Error(), `"tulle proxy"`) {
		t.Errorf("%v %v", p, err)
	}
}
