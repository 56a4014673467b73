package up

import (
	"errors"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// What stands in the way of retiring a root: certificates of it, of no root of
// the bundle, and those that nobody can be asked about.
func TestDependents(t *testing.T) {
	of := func(root string) *identity.Info {
		return &identity.Info{URI: "spiffe://td/ns/a/sa/b", Serial: "1", Root: root}
	}
	for _, tc := range []struct {
		name string
		held agent.Certificates
		err  error
		want []string
	}{
		{"renewed", agent.Certificates{Info: *of("new"), Application: of("new")}, nil, nil},
		{"not renewed", agent.Certificates{Info: *of("old")}, nil, []string{"sidecar"}},
		{"the application's is not renewed", agent.Certificates{Info: *of("new"), Application: of("old")}, nil, []string{"application"}},
		{"neither", agent.Certificates{Info: *of("old"), Application: of("old")}, nil, []string{"sidecar", "application"}},
		{"of a root that is gone already", agent.Certificates{Info: *of("")}, nil, []string{"sidecar"}},
		{"no certificate yet", agent.Certificates{}, nil, nil},
		{"cannot be asked", agent.Certificates{}, errors.New("connection refused"), []string{"sidecar"}},
	} {
		got := dependentsOf("web-0", tc.held, tc.err, map[string]bool{"new": true})
		var users []string
		for _, d := range got {
			users = append(users, d.User)
			if d.Workload != "web-0" || (d.Unknown != "") != (tc.err != nil) {
				t.Errorf("%s: %+v", tc.name, d)
			}
		}
		if !slices.Equal(users, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, users, tc.want)
		}
	}
}
