package up

import (
	"errors"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/machine"
)

func TestEnding(t *testing.T) {
	for _, tc := range []struct {
		e    machine.Ending
		want string
	}{
		{machine.Ending{Workload: "web-0", Container: machine.AppContainer, Count: 1, Again: time.Second}, "web-0: app ended (exit status 0), again in 1s. See why with: tulle logs web-0"},
		{machine.Ending{Workload: "web-0", Container: machine.ProxyContainer, Count: 1, Again: time.Second, Err: errors.New("signal: killed")}, "web-0: istio-proxy ended (signal: killed), again in 1s. See why with: tulle logs web-0 -c istio-proxy"},
		{machine.Ending{Workload: "web-0", Container: machine.AppContainer, Count: 4, Again: 8 * time.Second, Err: errors.New("exit status 3")}, "web-0: app ended 4 times (exit status 3), again in 8s"},
	} {
		if got := ending(tc.e); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
