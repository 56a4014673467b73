package resource

import (
	"slices"
	"strings"
	"testing"
)

// VS31: which names of headers mean a claim.
func TestRoutingClaim(t *testing.T) {
	for name, want := range map[string][]string{
		"@request.auth.claims.sub":          {"sub"},
		"@Request.Auth.Claims.Sub":          {"Sub"},
		"@request.auth.claims.a.b":          {"a", "b"},
		"@request.auth.claims[a][b]":        {"a", "b"},
		"@request.auth.claims[https://a.b]": {"https://a.b"},
		"@request.auth.claims":              nil,
		"@request.auth.claims.":             nil,
		"@request.auth.claims[]":            nil,
		"@request.auth.claims[a":            nil,
		"@request.auth.claimsx":             nil,
		"x-request.auth.claims.a":           nil,
		"@":                                 nil,
	} {
		if got := RoutingClaim(name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestClaimsInMatches(t *testing.T) {
	for _, tc := range []struct{ name, gateways, match, problem string }{
		{"gateway", "[g]", `headers: {"@request.auth.claims.a": {exact: b}}`, ""},
		{"gateway and sidecars", "[g, mesh]", `headers: {"@request.auth.claims.a": {exact: b}}`, ""},
		{"sidecars", "[mesh]", `headers: {"@request.auth.claims.a": {exact: b}}`, "sidecars do not route by claims"},
		{"sidecars by default", "", `withoutHeaders: {"@request.auth.claims[a][b]": {exact: b}}`, "sidecars do not route by claims"},
		{"no name", "[g]", `headers: {"@request.auth.claims": {exact: b}}`, "neither a header nor a claim"},
		{"part without a name", "[g]", `headers: {"@request.auth.claims.a..b": {exact: b}}`, "neither a header nor a claim"},
		{"bracket within", "[g]", `withoutHeaders: {"@request.auth.claims[a]b]": {exact: b}}`, "neither a header nor a claim"},
		{"something else", "[g]", `headers: {"@x": {exact: b}}`, "neither a header nor a claim"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: b}\nspec:\n  hosts: [a.example.com]\n"
			if tc.gateways != "" {
				text += "  gateways: " + tc.gateways + "\n"
			}
			text += "  http: [{match: [{" + tc.match + "}], route: [{destination: {host: a}}]}]\n"
			set, problems := Parse([]File{{Name: "in.yaml", Data: []byte(text)}})
			if tc.problem == "" {
				if len(problems) != 0 || len(set.VirtualServices) != 1 {
					t.Errorf("refused: %v", problems)
				}
				return
			}
			if len(problems) == 0 || !strings.Contains(problems[0].String(), tc.problem) || problems[0].Origin.Line == 0 {
				t.Errorf("have %v, want one about %q", problems, tc.problem)
			}
		})
	}
}
