package proxy

import (
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// What a policy says beside its verdict belongs to the configuration that the
// request sees; its connection may follow the next one at that moment (with
// -race this shows).
func TestDryRunWhileTheConfigurationChanges(t *testing.T) {
	m, client := newMeshOver(t, hops{"http2", "http2", "http1"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}), func(m *mesh) {
		m.snapA.Listeners[0].Chains[0].Filters = []ir.Filter{{RBAC: &ir.RBAC{Action: ir.Deny, DryRun: true, Policies: []ir.Policy{{Name: "ns[shop]-policy[p]-rule[0]"}}}}}
	})
	done := make(chan struct{})
	var edits sync.WaitGroup
	edits.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				m.apply(m.a, m.snapA)
			}
		}
	})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 100 {
				resp, err := client.Get(m.url + "/")
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	callers.Wait()
	close(done)
	edits.Wait()
	if metric(m.a, "outbound_0_0_0_0", "rbac") == "" {
		t.Error("nothing was counted")
	}
}
