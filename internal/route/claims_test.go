package route

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// lists is a token: claims by their dotted path.
type lists map[string][]string

func (l lists) Claim(path []string, match func(string) bool) bool {
	for _, v := range l[strings.Join(path, ".")] {
		if match(v) {
			return true
		}
	}
	return false
}

// VS31: claims of a verified token choose the route; without one nothing
// matches but what asks for a claim's absence.
func TestClaims(t *testing.T) {
	is := func(kind ir.MatchKind, value string, path ...string) ir.ClaimMatch {
		return ir.ClaimMatch{Path: path, Value: ir.Match{Kind: kind, Value: value}}
	}
	not := func(c ir.ClaimMatch) ir.ClaimMatch { c.Invert = true; return c }
	alice := lists{"sub": {"alice"}, "groups": {"staff", "beta"}, "realm.kind": {"inner"}, "empty": {""}}
	for _, tc := range []struct {
		name  string
		match []ir.ClaimMatch
		token Claims
		want  bool
		why   string
	}{
		{"text", []ir.ClaimMatch{is(ir.Exact, "alice", "sub")}, alice, true, ""},
		{"other text", []ir.ClaimMatch{is(ir.Exact, "bob", "sub")}, alice, false, `claim sub is "alice", wanted exact "bob"`},
		{"in a list", []ir.ClaimMatch{is(ir.Exact, "beta", "groups")}, alice, true, ""},
		{"nested", []ir.ClaimMatch{is(ir.Prefix, "inn", "realm", "kind")}, alice, true, ""},
		{"regex", []ir.ClaimMatch{is(ir.Regex, "al.*", "sub")}, alice, true, ""},
		{"regex is the whole claim", []ir.ClaimMatch{is(ir.Regex, "al", "sub")}, alice, false, "claim sub"},
		{"present", []ir.ClaimMatch{is(ir.Present, "", "sub")}, alice, true, ""},
		{"present but empty", []ir.ClaimMatch{is(ir.Present, "", "empty")}, alice, false, "claim empty"},
		{"both", []ir.ClaimMatch{is(ir.Exact, "alice", "sub"), is(ir.Exact, "guest", "groups")}, alice, false, "claim groups"},
		{"without", []ir.ClaimMatch{not(is(ir.Exact, "guest", "groups"))}, alice, true, ""},
		{"without, but there", []ir.ClaimMatch{not(is(ir.Exact, "beta", "groups"))}, alice, false, "claim groups"},
		{"no token", []ir.ClaimMatch{is(ir.Present, "", "sub")}, nil, false, "claim sub is absent"},
		{"no token, without", []ir.ClaimMatch{not(is(ir.Present, "", "sub"))}, nil, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, err := New(&ir.RouteTable{VirtualHosts: []*ir.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{
				{Match: ir.RouteMatch{Claims: tc.match}, Direct: &ir.DirectResponse{Status: 200}}}}}})
			if err != nil {
				t.Fatal(err)
			}
			r := &Request{Host: "a", Path: "/", Claims: tc.token}
			if got, _ := table.Match(r); (got != nil) != tc.want {
				t.Errorf("have %v, want %v", got != nil, tc.want)
			}
			if _, tried, _ := table.Trace(r); !strings.Contains(tried[0].Missed, tc.why) || (tried[0].Missed == "") != tc.want {
				t.Errorf("explain says %q, want %q", tried[0].Missed, tc.why)
			}
		})
	}
	bad := &ir.RouteTable{VirtualHosts: []*ir.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{
		{Match: ir.RouteMatch{Claims: []ir.ClaimMatch{is(ir.Regex, "(", "sub")}}, Direct: &ir.DirectResponse{}}}}}}
	if _, err := New(bad); err == nil || !strings.Contains(err.Error(), "claim sub") {
		t.Errorf("a bad expression: %v", err)
	}
}
