package authz

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

type headers map[string]string

func (h headers) Get(name string) (string, bool) { v, ok := h[name]; return v, ok }

// asker answers per provider and counts.
type asker struct {
	verdicts map[string]Verdict
	asked    []string
}

func (a *asker) Ask(f *ir.ExtAuthz) Verdict {
	a.asked = append(a.asked, f.Provider)
	return a.verdicts[f.Provider]
}

const (
	spiffeFront  = "spiffe://cluster.local/ns/shop/sa/front"
	spiffeWorker = "spiffe://cluster.local/ns/shop/sa/worker"
)

func attr(a ir.Attr, kind ir.MatchKind, value string) *ir.Expr {
	return &ir.Expr{Op: ir.Leaf, Attr: a, Value: ir.Match{Kind: kind, Value: value}}
}
func header(name string, kind ir.MatchKind, value string) *ir.Expr {
	e := attr(ir.AttrHeader, kind, value)
	e.Key = name
	return e
}
func port(n uint16) *ir.Expr { return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrDestinationPort, Port: n} }
func cidr(a ir.Attr, s string) *ir.Expr {
	return &ir.Expr{Op: ir.Leaf, Attr: a, CIDR: s}
}
func not(e *ir.Expr) *ir.Expr       { return &ir.Expr{Op: ir.Not, Args: []*ir.Expr{e}} }
func and(list ...*ir.Expr) *ir.Expr { return &ir.Expr{Op: ir.And, Args: list} }
func or(list ...*ir.Expr) *ir.Expr  { return &ir.Expr{Op: ir.Or, Args: list} }

var everything = &ir.Expr{Op: ir.Any}

func rule(name string, permission, principal *ir.Expr) ir.Policy {
	return ir.Policy{Name: name, Permission: permission, Principal: principal}
}
func rbac(a ir.Action, p ...ir.Policy) ir.Filter {
	return ir.Filter{RBAC: &ir.RBAC{Action: a, Policies: p}}
}
func shadow(a ir.Action, p ...ir.Policy) ir.Filter {
	return ir.Filter{RBAC: &ir.RBAC{Action: a, Policies: p, DryRun: true}}
}
func custom(provider string, p ...ir.Policy) ir.Filter {
	return ir.Filter{ExtAuthz: &ir.ExtAuthz{Provider: provider, Policies: p}}
}

func mustNew(t testing.TB, f ...ir.Filter) *Engine {
	t.Helper()
	e, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func get(path string) *Input {
	return &Input{HTTP: true, Method: "GET", Path: path, Host: "worker", Principal: spiffeFront, DestinationPort: 8080}
}

// AP1: CUSTOM, then DENY, then ALLOW; the first step that refuses decides.
func TestOrder(t *testing.T) {
	var (
		get1    = rule("get", attr(ir.AttrMethod, ir.Exact, "GET"), everything)
		admin   = rule("admin", attr(ir.AttrPath, ir.Prefix, "/admin"), everything)
		anybody = rule("any", everything, everything)
		yes     = Verdict{Allow: true}
		no      = Verdict{Status: 401, Body: "who?"}
	)
	for _, tc := range []struct {
		name     string
		filters  []ir.Filter
		verdict  Verdict
		in       *Input
		allow    bool
		action   ir.Action
		policy   string
		details  string
		wasAsked bool
	}{
		{name: "no policies", in: get("/"), allow: true},
		{name: "allow matches", filters: []ir.Filter{rbac(ir.Allow, get1)}, in: get("/"), allow: true},
		{name: "allow matches nothing", filters: []ir.Filter{rbac(ir.Allow, admin)}, in: get("/"), action: ir.Allow, details: "rbac_access_denied_matched_policy[none]"},
		{name: "allow nothing (AP3)", filters: []ir.Filter{rbac(ir.Allow)}, in: get("/"), action: ir.Allow, details: "rbac_access_denied_matched_policy[none]"},
		{name: "second rule allows", filters: []ir.Filter{rbac(ir.Allow, admin, get1)}, in: get("/"), allow: true},
		{name: "deny matches", filters: []ir.Filter{rbac(ir.Deny, admin)}, in: get("/admin/x"), action: ir.Deny, policy: "admin", details: "rbac_access_denied_matched_policy[admin]"},
		{name: "deny does not match", filters: []ir.Filter{rbac(ir.Deny, admin)}, in: get("/"), allow: true},
		{name: "deny nothing", filters: []ir.Filter{rbac(ir.Deny)}, in: get("/"), allow: true},
		{name: "deny before allow", filters: []ir.Filter{rbac(ir.Deny, admin), rbac(ir.Allow, anybody)}, in: get("/admin"), action: ir.Deny, policy: "admin", details: "rbac_access_denied_matched_policy[admin]"},
		{name: "audit only marks", filters: []ir.Filter{rbac(ir.Audit, anybody)}, in: get("/"), allow: true},
		{name: "custom allows, no more", filters: []ir.Filter{custom("opa", anybody)}, verdict: yes, in: get("/"), allow: true, action: "CUSTOM", policy: "any", wasAsked: true},
		{name: "custom denies", filters: []ir.Filter{custom("opa", anybody), rbac(ir.Allow, anybody)}, verdict: no, in: get("/"), action: "CUSTOM", policy: "any", details: "ext_authz_denied", wasAsked: true},
		{name: "custom not matched is not asked", filters: []ir.Filter{custom("opa", admin)}, verdict: no, in: get("/"), allow: true},
		{name: "custom allows, deny denies", filters: []ir.Filter{custom("opa", anybody), rbac(ir.Deny, admin)}, verdict: yes, in: get("/admin"), action: ir.Deny, policy: "admin", details: "rbac_access_denied_matched_policy[admin]", wasAsked: true},
		{name: "custom allows, allow does not", filters: []ir.Filter{custom("opa", anybody), rbac(ir.Allow, admin)}, verdict: yes, in: get("/"), action: ir.Allow, details: "rbac_access_denied_matched_policy[none]", wasAsked: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &asker{verdicts: map[string]Verdict{"opa": tc.verdict}}
			d := mustNew(t, tc.filters...).Check(tc.in, a)
			if d.Allow != tc.allow || d.Action != tc.action || d.Policy != tc.policy || (len(a.asked) == 1) != tc.wasAsked {
				t.Errorf("have %+v, asked %v", d, a.asked)
			}
			if !d.Allow && d.Details() != tc.details {
				t.Errorf("details: have %s, want %s", d.Details(), tc.details)
			}
		})
	}
}

func TestCustomFailsClosed(t *testing.T) {
	anybody := rule("any", everything, everything)
	with := func(change func(*ir.ExtAuthz)) ir.Filter {
		f := custom("opa", anybody)
		change(f.ExtAuthz)
		return f
	}
	down := Verdict{Allow: true, Err: errors.New("connection refused")} // an answer beside an error is none
	for _, tc := range []struct {
		name   string
		filter ir.Filter
		asker  Asker
		allow  bool
		status int
	}{
		{"error", with(func(*ir.ExtAuthz) {}), &asker{verdicts: map[string]Verdict{"opa": down}}, false, 403},
		{"error with a status of its own", with(func(f *ir.ExtAuthz) { f.StatusOnError = 503 }), &asker{verdicts: map[string]Verdict{"opa": down}}, false, 503},
		{"error, fail open", with(func(f *ir.ExtAuthz) { f.FailOpen = true }), &asker{verdicts: map[string]Verdict{"opa": down}}, true, 403},
		{"nobody to ask", with(func(*ir.ExtAuthz) {}), nil, false, 403},
		{"the zero verdict", with(func(*ir.ExtAuthz) {}), &asker{}, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := mustNew(t, tc.filter).Check(get("/"), tc.asker)
			if d.Allow != tc.allow || d.External == nil || d.External.Status != tc.status || d.Provider != "opa" {
				t.Errorf("have %+v, external %+v", d, d.External)
			}
			if d.External != nil && d.External.Err != nil && d.Details() != "ext_authz_error" {
				t.Errorf("details %s", d.Details())
			}
		})
	}
	// A broken provider refuses what it matches even if it fails open, and is not asked.
	a := &asker{verdicts: map[string]Verdict{"opa": {Allow: true}}}
	d := mustNew(t, with(func(f *ir.ExtAuthz) { f.Broken, f.FailOpen = "no such provider", true })).Check(get("/"), a)
	if d.Allow || len(a.asked) != 0 || d.Policy != "any" || d.Provider != "opa" {
		t.Errorf("broken provider: %+v, asked %v", d, a.asked)
	}
	if d := mustNew(t, ir.Filter{ExtAuthz: &ir.ExtAuthz{Provider: "opa", Broken: "x", Policies: []ir.Policy{rule("a", attr(ir.AttrPath, ir.Exact, "/a"), everything)}}}).Check(get("/b"), nil); !d.Allow {
		t.Errorf("a broken provider refuses what it does not match: %+v", d)
	}
}

// AP15: dry-run policies never refuse; what they say is kept per action, as
// Envoy does, and as one verdict.
func TestDryRun(t *testing.T) {
	admin := rule("admin", attr(ir.AttrPath, ir.Prefix, "/admin"), everything)
	other := rule("other", attr(ir.AttrPath, ir.Exact, "/x"), everything)
	for _, tc := range []struct {
		name         string
		filters      []ir.Filter
		allow, would bool
		deny, allows Shadow
	}{
		{"none", []ir.Filter{rbac(ir.Allow, admin)}, true, true, Shadow{}, Shadow{}},
		{"deny matches", []ir.Filter{shadow(ir.Deny, admin)}, true, false, Shadow{true, "admin"}, Shadow{}},
		{"deny misses", []ir.Filter{shadow(ir.Deny, other)}, true, true, Shadow{true, ""}, Shadow{}},
		{"deny matches over a live allow", []ir.Filter{shadow(ir.Deny, admin), rbac(ir.Allow, admin)}, true, false, Shadow{true, "admin"}, Shadow{}},
		{"deny misses over a live refusal", []ir.Filter{shadow(ir.Deny, other), rbac(ir.Allow, other)}, false, false, Shadow{true, ""}, Shadow{}},
		{"allow misses, alone", []ir.Filter{shadow(ir.Allow, other)}, true, false, Shadow{}, Shadow{true, ""}},
		{"allow nothing, alone", []ir.Filter{shadow(ir.Allow)}, true, false, Shadow{}, Shadow{true, ""}},
		{"allow matches, alone", []ir.Filter{shadow(ir.Allow, admin)}, true, true, Shadow{}, Shadow{true, "admin"}},
		{"allow misses beside a live match", []ir.Filter{shadow(ir.Allow, other), rbac(ir.Allow, admin)}, true, true, Shadow{}, Shadow{true, ""}},
		{"allow matches beside a live miss", []ir.Filter{shadow(ir.Allow, admin), rbac(ir.Allow, other)}, false, true, Shadow{}, Shadow{true, "admin"}},
		{"allow misses beside a live miss", []ir.Filter{shadow(ir.Allow, other), rbac(ir.Allow)}, false, false, Shadow{}, Shadow{true, ""}},
		{"both", []ir.Filter{shadow(ir.Deny, admin), shadow(ir.Allow, admin)}, true, false, Shadow{true, "admin"}, Shadow{true, "admin"}},
		{"a live deny stays", []ir.Filter{shadow(ir.Deny, other), rbac(ir.Deny, admin), shadow(ir.Allow, admin)}, false, false, Shadow{true, ""}, Shadow{}},
	} {
		d := mustNew(t, tc.filters...).Check(get("/admin"), nil)
		if d.Allow != tc.allow || d.Would() != tc.would || d.Dry.Deny != tc.deny || d.Dry.Allow != tc.allows {
			t.Errorf("%s: would %v, have %+v", tc.name, d.Would(), d)
		}
	}
}

// AUDIT only marks, whatever the other steps decide.
func TestAudit(t *testing.T) {
	admin := rule("admin", attr(ir.AttrPath, ir.Prefix, "/admin"), everything)
	for _, tc := range []struct {
		filters []ir.Filter
		path    string
		allow   bool
		audit   string
	}{
		{[]ir.Filter{rbac(ir.Audit, admin)}, "/admin", true, "admin"},
		{[]ir.Filter{rbac(ir.Audit, admin)}, "/", true, ""},
		{[]ir.Filter{rbac(ir.Audit, admin), rbac(ir.Deny, admin)}, "/admin", false, "admin"},
		{[]ir.Filter{rbac(ir.Audit, admin), rbac(ir.Allow)}, "/", false, ""},
	} {
		if d := mustNew(t, tc.filters...).Check(get(tc.path), nil); d.Allow != tc.allow || d.Audit != tc.audit {
			t.Errorf("%s: have %+v, want %+v", tc.path, d, tc)
		}
	}
}

func TestExpressions(t *testing.T) {
	ip := netip.MustParseAddr
	tcp := &Input{Principal: spiffeFront, SourceIP: ip("10.1.2.3"), DestinationPort: 5432}
	plain := &Input{HTTP: true, Method: "GET", Path: "/"}
	for _, tc := range []struct {
		name string
		expr *ir.Expr
		in   *Input
		want bool
	}{
		{"principal exact", attr(ir.AttrPrincipal, ir.Exact, spiffeFront), get("/"), true},
		{"principal without its scheme", attr(ir.AttrPrincipal, ir.Exact, strings.TrimPrefix(spiffeFront, "spiffe://")), get("/"), false},
		{"principal other", attr(ir.AttrPrincipal, ir.Exact, spiffeWorker), get("/"), false},
		{"principal prefix", attr(ir.AttrPrincipal, ir.Prefix, "spiffe://cluster.local/ns/shop/"), get("/"), true},
		{"principal suffix", attr(ir.AttrPrincipal, ir.Suffix, "/sa/front"), get("/"), true},
		{"principal present", attr(ir.AttrPrincipal, ir.Present, ""), get("/"), true},
		{"principal present, plaintext", attr(ir.AttrPrincipal, ir.Present, ""), plain, false},
		{"principal regex, plaintext", attr(ir.AttrPrincipal, ir.Regex, ".*"), plain, false},
		{"not principal, plaintext (AP11)", not(attr(ir.AttrPrincipal, ir.Exact, spiffeFront)), plain, true},
		{"namespace", attr(ir.AttrPrincipal, ir.Contains, "/ns/shop/sa/"), get("/"), true},
		{"namespace that begins alike", attr(ir.AttrPrincipal, ir.Contains, "/ns/sho/sa/"), get("/"), false},
		{"method", attr(ir.AttrMethod, ir.Exact, "GET"), get("/"), true},
		{"method is case sensitive", attr(ir.AttrMethod, ir.Exact, "get"), get("/"), false},
		{"method on TCP", attr(ir.AttrMethod, ir.Present, ""), tcp, false},
		{"path exact", attr(ir.AttrPath, ir.Exact, "/a"), get("/a"), true},
		{"path exact is not a prefix", attr(ir.AttrPath, ir.Exact, "/a"), get("/a/b"), false},
		{"path prefix", attr(ir.AttrPath, ir.Prefix, "/a"), get("/ab"), true},
		{"path suffix", attr(ir.AttrPath, ir.Suffix, ".js"), get("/x/y.js"), true},
		{"path present", attr(ir.AttrPath, ir.Present, ""), get("/"), true},
		{"path is case sensitive", attr(ir.AttrPath, ir.Exact, "/a"), get("/A"), false},
		{"path template, one segment", attr(ir.AttrPath, ir.Template, "/a/{*}/c"), get("/a/b/c"), true},
		{"path template, not two", attr(ir.AttrPath, ir.Template, "/a/{*}/c"), get("/a/b/b/c"), false},
		{"path template, not none", attr(ir.AttrPath, ir.Template, "/a/{*}"), get("/a/"), false},
		{"path template, rest", attr(ir.AttrPath, ir.Template, "/a/{**}"), get("/a/b/c"), true},
		{"path template, rest then suffix", attr(ir.AttrPath, ir.Template, "/a/{**}.js"), get("/a/b/c.js"), true},
		{"path template, both", attr(ir.AttrPath, ir.Template, "/{*}/x/{**}"), get("/1/x/2/3"), true},
		{"path template is literal elsewhere", attr(ir.AttrPath, ir.Template, "/a.b/{*}"), get("/aXb/c"), false},
		{"host ignores case (AP8)", &ir.Expr{Op: ir.Leaf, Attr: ir.AttrHost, Value: ir.Match{Kind: ir.Exact, Value: "WORKER", IgnoreCase: true}}, get("/"), true},
		{"host suffix ignores case", &ir.Expr{Op: ir.Leaf, Attr: ir.AttrHost, Value: ir.Match{Kind: ir.Suffix, Value: "KER", IgnoreCase: true}}, get("/"), true},
		{"host prefix ignores case", &ir.Expr{Op: ir.Leaf, Attr: ir.AttrHost, Value: ir.Match{Kind: ir.Prefix, Value: "WORKERS", IgnoreCase: true}}, get("/"), false},
		{"port", port(8080), get("/"), true},
		{"port on TCP", port(5432), tcp, true},
		{"other port", port(80), get("/"), false},
		{"header", header("x-user", ir.Exact, "bob"), &Input{HTTP: true, Headers: headers{"x-user": "bob"}}, true},
		{"header present but empty", header("x-user", ir.Present, ""), &Input{HTTP: true, Headers: headers{"x-user": ""}}, true},
		{"header missing", header("x-user", ir.Present, ""), &Input{HTTP: true, Headers: headers{}}, false},
		{"header missing, not", not(header("x-user", ir.Exact, "bob")), &Input{HTTP: true, Headers: headers{}}, true},
		{"no headers at all", header("x-user", ir.Present, ""), &Input{HTTP: true}, false},
		{"sni", attr(ir.AttrSNI, ir.Suffix, ".example.com"), &Input{SNI: "a.example.com"}, true},
		{"sni missing", attr(ir.AttrSNI, ir.Present, ""), &Input{}, false},
		{"source block", cidr(ir.AttrSourceIP, "10.0.0.0/8"), tcp, true},
		{"source block, host bits set", cidr(ir.AttrSourceIP, "10.1.2.99/24"), tcp, true},
		{"source address", cidr(ir.AttrSourceIP, "10.1.2.3"), tcp, true},
		{"source elsewhere", cidr(ir.AttrSourceIP, "192.168.0.0/16"), tcp, false},
		{"source mapped into IPv6", cidr(ir.AttrSourceIP, "10.0.0.0/8"), &Input{SourceIP: ip("::ffff:10.1.2.3")}, true},
		{"source IPv6 with zone", cidr(ir.AttrSourceIP, "fe80::/10"), &Input{SourceIP: ip("fe80::1%eth0")}, true},
		{"remote", cidr(ir.AttrRemoteIP, "1.2.3.0/24"), &Input{RemoteIP: ip("1.2.3.4")}, true},
		{"remote unknown", cidr(ir.AttrRemoteIP, "0.0.0.0/0"), &Input{}, false},
		{"destination", cidr(ir.AttrDestinationIP, "10.9.0.0/16"), &Input{DestinationIP: ip("10.9.1.1")}, true},
		{"and", and(port(8080), attr(ir.AttrMethod, ir.Exact, "GET")), get("/"), true},
		{"and, one fails", and(port(8080), attr(ir.AttrMethod, ir.Exact, "PUT")), get("/"), false},
		{"or", or(port(1), attr(ir.AttrMethod, ir.Exact, "GET")), get("/"), true},
		{"or of nothing", or(), get("/"), false},
		{"and of nothing", and(), get("/"), true},
		{"not not", not(not(port(8080))), get("/"), true},
		{"nil is any", nil, get("/"), true},
		{"regex is the whole string", attr(ir.AttrPath, ir.Regex, "/a|/b"), get("/ax"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// As a DENY rule: allowed means not matched. On either side of a policy.
			for side, p := range map[string]ir.Policy{"permission": rule("p", tc.expr, nil), "principal": rule("p", nil, tc.expr)} {
				if got := !mustNew(t, rbac(ir.Deny, p)).Check(tc.in, nil).Allow; got != tc.want {
					t.Errorf("as %s: have %v, want %v", side, got, tc.want)
				}
			}
		})
	}
}

// A policy needs both its sides.
func TestPolicyNeedsBothSides(t *testing.T) {
	p := rule("p", attr(ir.AttrPath, ir.Exact, "/a"), attr(ir.AttrPrincipal, ir.Exact, spiffeFront))
	e := mustNew(t, rbac(ir.Allow, p))
	other := get("/a")
	other.Principal = spiffeWorker
	if !e.Check(get("/a"), nil).Allow || e.Check(get("/b"), nil).Allow || e.Check(other, nil).Allow {
		t.Error("permission and principal are not both asked for")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		f    ir.Filter
		want string
	}{
		"empty filter":      {ir.Filter{}, "exactly one"},
		"both":              {ir.Filter{RBAC: &ir.RBAC{}, ExtAuthz: &ir.ExtAuthz{}}, "exactly one"},
		"unknown attribute": {rbac(ir.Deny, rule("p", attr("request.time", ir.Exact, "x"), nil)), "policy p"},
		"bad regex":         {rbac(ir.Deny, rule("p", attr(ir.AttrPath, ir.Regex, "("), nil)), "policy p"},
		"unbalanced regex":  {rbac(ir.Deny, rule("p", attr(ir.AttrPath, ir.Regex, "/a)|(?:/b"), nil)), "policy p"},
		"bad block":         {rbac(ir.Deny, rule("p", nil, cidr(ir.AttrSourceIP, "10.0.0.0/99"))), "10.0.0.0/99"},
		"unknown operator":  {rbac(ir.Deny, rule("p", &ir.Expr{Op: "xor"}, nil)), "xor"},
		"not of two":        {rbac(ir.Deny, rule("p", &ir.Expr{Op: ir.Not, Args: []*ir.Expr{everything, everything}}, nil)), "one argument"},
		"inside not":        {rbac(ir.Deny, rule("p", not(&ir.Expr{Op: "xor"}), nil)), "xor"},
		"template":          {rbac(ir.Deny, rule("p", attr(ir.AttrPath, ir.Template, "/{x}"), nil)), "only {*} and {**}"},
		"template order":    {rbac(ir.Deny, rule("p", attr(ir.AttrPath, ir.Template, "/{**}/{*}"), nil)), "nothing may follow"},
		"unknown action":    {rbac("LOG", rule("p", nil, nil)), "LOG"},
	} {
		if _, err := New([]ir.Filter{tc.f}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: have error %v, want one about %q", name, err, tc.want)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	e := mustNew(t, rbac(ir.Deny, rule("d", attr(ir.AttrPath, ir.Prefix, "/admin"), nil)),
		rbac(ir.Allow, rule("a", and(header("x", ir.Exact, "1"), attr(ir.AttrMethod, ir.Exact, "GET")), attr(ir.AttrPrincipal, ir.Prefix, "spiffe://"))))
	in := get("/x")
	in.Headers = headers{"x": "1"}
	if n := testing.AllocsPerRun(100, func() { e.Check(in, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
