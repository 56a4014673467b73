package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// A command line that is wrong says so with the next step, and exit code 2,
// whether a mesh runs or not.
func TestUsage(t *testing.T) {
	t.Setenv("TULLE_STATE", t.TempDir())
	for _, tc := range []struct{ line, want string }{
		{"explian", `there is no command "tulle explian" (did you mean explain?)`},
		{"mtls verfy", `there is no command "tulle mtls verfy" (did you mean verify?)`},
		{"mtls foo", "See: tulle mtls --help"},
		{"pc rout web", "did you mean routes?"},
		{"pc cluster web --direction up", "want inbound, outbound"},
		{"pc endpoint web --port 70000", "See: tulle proxy-config endpoints --help"},
		{"get", "Usage: tulle get KIND [NAME]"},
		{"get vs --frobnicate", "See: tulle get --help"},
		{"describe svc", "give a name"},
		{"describe pod/", "give a name"},
		{"explain", "tulle explain --from web --to worker:8000"},
		{"explain --from web --to https://worker/", "want HOST[:PORT] or a URL of http"},
		{"explain --from web --to worker -H foo", "want 'Name: value'"},
		{"exec web", "tulle exec web -- curl"},
		{"exec web -c foo -- true", "-c app or istio-proxy"},
		{"logs", "give a workload or a selector"},
		{"logs web --tail -2", "-1 for all"},
		{"logs web --since yesterday", "See: tulle logs --help"},
		{"logs web --since 0s", "a duration above 0"},
		{"up", "tulle up examples/researchflow"},
		{"up x --port foo=1", "there are gateway, gateway-https, opa, opa-grpc"},
		{"up x --address 1.2.3.4.5", "want an IP address"},
		{"up x --run web", "want NAME=COMMAND"},
		{"validate", "tulle validate -f PATH"},
		{"version -o xml", "json or yaml"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			root := newRoot()
			root.SetArgs(strings.Fields(tc.line))
			root.SetOut(io.Discard)
			err := root.ExecuteContext(t.Context())
			var exit *exitError
			if !errors.As(err, &exit) || exit.code != exitUsage || !strings.Contains(exit.text, tc.want) {
				t.Errorf("%v; want exit code 2 and %q", err, tc.want)
			}
		})
	}
}
