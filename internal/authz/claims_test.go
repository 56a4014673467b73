package authz

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func claim(path string, kind ir.MatchKind, value string) *ir.Expr {
	e := attr(ir.AttrClaim, kind, value)
	e.Key = path
	return e
}

// RA8, AP9: claims that are text or lists of text; nothing else matches.
func TestClaims(t *testing.T) {
	token := &Token{Issuer: "i", Subject: "s", Claims: map[string]any{
		"iss": "i", "sub": "s", "aud": []any{"shop", "bank"}, "azp": "app", "groups": []any{"admin", 7.0, "staff"}, "n": 7.0, "yes": true,
		"empty": "", "none": []any{}, "null": nil, "realm": map[string]any{"roles": []any{"editor"}, "name": "x"}, "a][b": "odd", "a.b": "dotted",
	}}
	with, without := get("/"), get("/")
	with.Token = token
	for _, tc := range []struct {
		name string
		expr *ir.Expr
		want bool
	}{
		{"text", claim("iss", ir.Exact, "i"), true},
		{"other text", claim("iss", ir.Exact, "I"), false},
		{"in a list", claim("groups", ir.Exact, "staff"), true},
		{"not in the list", claim("groups", ir.Exact, "guest"), false},
		{"prefix in a list", claim("groups", ir.Prefix, "adm"), true},
		{"the list as text", claim("groups", ir.Exact, "admin,staff"), false},
		{"number in a list", claim("groups", ir.Exact, "7"), false},
		{"number", claim("n", ir.Exact, "7"), false},
		{"number, present", claim("n", ir.Present, ""), false},
		{"boolean", claim("yes", ir.Exact, "true"), false},
		{"present", claim("sub", ir.Present, ""), true},
		{"present, empty text", claim("empty", ir.Present, ""), false},
		{"exactly empty text", claim("empty", ir.Exact, ""), true},
		{"present, empty list", claim("none", ir.Present, ""), false},
		{"present, null", claim("null", ir.Present, ""), false},
		{"nested list", claim("realm][roles", ir.Exact, "editor"), true},
		{"nested text", claim("realm][name", ir.Exact, "x"), true},
		{"an object is no text", claim("realm", ir.Present, ""), false},
		{"below text", claim("sub][x", ir.Present, ""), false},
		{"name with a dot", claim("a.b", ir.Exact, "dotted"), true},
		{"absent", claim("absent", ir.Present, ""), false},
		{"not absent", not(claim("absent", ir.Exact, "x")), true},
		{"audience", attr(ir.AttrAudience, ir.Exact, "bank"), true},
		{"other audience", attr(ir.AttrAudience, ir.Exact, "ban"), false},
		{"presenter", attr(ir.AttrPresenter, ir.Exact, "app"), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := mustNew(t, rbac(ir.Deny, rule("p", nil, tc.expr)))
			if got := !e.Check(with, nil).Allow; got != tc.want {
				t.Errorf("have %v, want %v", got, tc.want)
			}
			_, considered := e.Trace(with, nil)
			if missed := considered[0].Missed; (missed == "") != tc.want {
				t.Errorf("explain says %q", missed)
			}
			if got := !e.Check(without, nil).Allow; got != (tc.expr.Op == ir.Not) {
				t.Errorf("without a token: %v", got)
			}
		})
	}
	if _, err := New([]ir.Filter{rbac(ir.Deny, rule("p", nil, claim("a][", ir.Exact, "x")))}); err == nil {
		t.Error("a claim without a name is taken")
	}
	// On a connection there is no token, whatever it says.
	if tcp := (&Input{Token: token}); !mustNew(t, rbac(ir.Deny, rule("p", nil, claim("iss", ir.Exact, "i")))).Check(tcp, nil).Allow {
		t.Error("a claim matches on TCP")
	}
}

func TestPrincipal(t *testing.T) {
	for _, tc := range []struct {
		token *Token
		want  string
	}{
		{nil, ""}, {&Token{Issuer: "https://i", Subject: "s"}, "https://i/s"}, {&Token{Issuer: "i"}, ""}, {&Token{Subject: "s"}, ""},
	} {
		if got := tc.token.Principal(); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.token, got, tc.want)
		}
	}
}

// keeper answers JWT steps.
type keeper struct {
	asker
	token   *Token
	refused *Refusal
}

func (k *keeper) Authenticate(*ir.JWT) (*Token, *Refusal) { return k.token, k.refused }

// AP1: tokens are verified after CUSTOM and before DENY and ALLOW, which see
// what came of it; where nobody can verify, nobody passes.
func TestJWTStep(t *testing.T) {
	step := ir.Filter{JWT: &ir.JWT{}}
	alice := &Token{Issuer: "i", Subject: "alice", Claims: map[string]any{"sub": "alice"}}
	expired := &Refusal{Status: 401, Reason: "Jwt is expired"}
	is := func(sub string) ir.Policy { return rule(sub, nil, claim("sub", ir.Exact, sub)) }
	for _, tc := range []struct {
		name    string
		filters []ir.Filter
		asker   Asker
		allow   bool
		details string
	}{
		{"good", []ir.Filter{step, rbac(ir.Allow, is("alice"))}, &keeper{token: alice}, true, ""},
		{"another's", []ir.Filter{step, rbac(ir.Allow, is("bob"))}, &keeper{token: alice}, false, "rbac_access_denied_matched_policy[none]"},
		{"denied", []ir.Filter{step, rbac(ir.Deny, is("alice"))}, &keeper{token: alice}, false, "rbac_access_denied_matched_policy[alice]"},
		{"none", []ir.Filter{step}, &keeper{}, true, ""},
		{"none, but asked for", []ir.Filter{step, rbac(ir.Allow, is("alice"))}, &keeper{}, false, "rbac_access_denied_matched_policy[none]"},
		{"bad, though allowed", []ir.Filter{step, rbac(ir.Allow, rule("any", nil, nil))}, &keeper{refused: expired}, false, "jwt_authn_access_denied{Jwt_is_expired}"},
		{"bad, in dry run nothing changes", []ir.Filter{shadow(ir.Deny, rule("any", nil, nil)), step}, &keeper{refused: expired}, false, "jwt_authn_access_denied{Jwt_is_expired}"},
		{"CUSTOM refuses first", []ir.Filter{custom("opa", rule("any", nil, nil)), step}, &keeper{refused: expired}, false, "ext_authz_denied"},
		{"nobody verifies", []ir.Filter{step}, &asker{}, false, "jwt_authn_access_denied{Jwt_verification_fails}"},
		{"nobody at all", []ir.Filter{step}, nil, false, "jwt_authn_access_denied{Jwt_verification_fails}"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := mustNew(t, tc.filters...).Check(get("/"), tc.asker)
			if d.Allow != tc.allow || !tc.allow && d.Details() != tc.details {
				t.Errorf("have %+v, %s; want %v, %s", d, d.Details(), tc.allow, tc.details)
			}
			if strings.HasPrefix(tc.name, "bad") && (d.Token != expired || d.Action != "JWT") {
				t.Errorf("%+v does not say why", d)
			}
		})
	}
}

func TestClaimsDoNotAllocate(t *testing.T) {
	e := mustNew(t, rbac(ir.Deny, rule("p", nil, claim("groups", ir.Exact, "admin"))))
	in := get("/")
	in.Token = &Token{Claims: map[string]any{"groups": []any{"a", "b", "c"}}}
	if n := testing.AllocsPerRun(100, func() { e.Check(in, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
