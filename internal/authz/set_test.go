package authz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// plainly evaluates an expression as it is written, without tables or memo.
func plainly(t *testing.T, e *ir.Expr, in *Input) bool {
	switch e.Op {
	case ir.Any:
		return true
	case ir.And:
		for _, a := range e.Args {
			if !plainly(t, a, in) {
				return false
			}
		}
		return true
	case ir.Or:
		for _, a := range e.Args {
			if plainly(t, a, in) {
				return true
			}
		}
		return false
	case ir.Not:
		return !plainly(t, e.Args[0], in)
	}
	m, err := compileLeaf(e)
	if err != nil {
		t.Fatal(err)
	}
	return m.match(in)
}

var (
	words = []string{"", "/", "/a", "/a/", "/a/b", "b", "/ns/shop/sa/", "shop/sa/", "-eu/sa/", "spiffe://", "A", "/a/{*}", "/{*}/b", "/a/{**}", "/{**}/", "x"}
	kinds = []ir.MatchKind{ir.Exact, ir.Prefix, ir.Suffix, ir.Contains, ir.Present, ir.Template}
	attrs = []ir.Attr{ir.AttrPath, ir.AttrHost, ir.AttrPrincipal, ir.AttrSNI, ir.AttrHeader, ir.AttrDestinationPort, ir.AttrSourceIP}
)

func randomLeaf(r *rand.Rand) *ir.Expr {
	e := &ir.Expr{Op: ir.Leaf, Attr: attrs[r.IntN(len(attrs))]}
	switch e.Attr {
	case ir.AttrDestinationPort:
		e.Port = uint16(r.IntN(3))
		return e
	case ir.AttrSourceIP:
		e.CIDR = []string{"10.0.0.0/8", "10.1.0.0/16", "::/0"}[r.IntN(3)]
		return e
	case ir.AttrHeader:
		e.Key = []string{"x", "y", ":path", "host"}[r.IntN(4)]
	}
	e.Value = ir.Match{Kind: kinds[r.IntN(len(kinds))], Value: words[r.IntN(len(words))]}
	if e.Value.Kind != ir.Template {
		e.Value.IgnoreCase = e.Attr == ir.AttrHost && (e.Value.Kind == ir.Exact || e.Value.Kind == ir.Prefix || e.Value.Kind == ir.Suffix)
	}
	return e
}

func randomExpr(r *rand.Rand, depth int) *ir.Expr {
	if depth == 0 || r.IntN(4) == 0 {
		return randomLeaf(r)
	}
	e := &ir.Expr{Op: []ir.ExprOp{ir.And, ir.Or, ir.Or, ir.Not}[r.IntN(4)]}
	n := 1
	if e.Op != ir.Not {
		n = r.IntN(5)
	}
	for range n {
		e.Args = append(e.Args, randomExpr(r, depth-1))
	}
	return e
}

func randomInput(r *rand.Rand) *Input {
	pick := func() string {
		return words[r.IntN(len(words))] + words[r.IntN(len(words))] + words[r.IntN(len(words))]
	}
	in := &Input{HTTP: r.IntN(8) != 0, Path: pick(), Host: pick(), Principal: pick(), SNI: pick(), Headers: headers{"x": pick()},
		DestinationPort: uint16(r.IntN(3)), SourceIP: netip.MustParseAddr([]string{"10.1.2.3", "10.2.2.3", "fd00::1"}[r.IntN(3)])}
	if r.IntN(2) == 0 {
		in.Query = "?q"
	}
	return in
}

// Whatever the expressions share and however many there are, an engine decides
// as if each were looked at by itself: the policy that matches first is named.
func TestSetsDecideAsWritten(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 3, 20, 200, 900} { // the last ones have no room in the memo
		for range 10 {
			var list []ir.Policy
			for i := range size {
				list = append(list, rule(fmt.Sprint(i), randomExpr(r, 3), randomExpr(r, 2)))
			}
			if size > 1 { // some that all inputs come to
				list = list[r.IntN(len(list)):]
			}
			e, err := New([]ir.Filter{rbac(ir.Audit, list...), rbac(ir.Deny, list...)})
			if err != nil {
				continue // a template that is none
			}
			for range 20 {
				in := randomInput(r)
				want := ""
				for i := range list {
					if plainly(t, list[i].Permission, in) && plainly(t, list[i].Principal, in) {
						want = list[i].Name
						break
					}
				}
				d := e.Check(in, nil)
				if d.Policy != want || d.Audit != want || d.Allow != (want == "") {
					t.Fatalf("%d policies, %+v: have %q, want %q", size, in, d.Policy, want)
				}
				if again, _ := e.Trace(in, nil); again.Policy != want {
					t.Fatalf("Trace: have %q, want %q", again.Policy, want)
				}
			}
		}
	}
}

// What is remembered for one engine says nothing to another.
func TestInputMayBeCheckedByTwoEngines(t *testing.T) {
	in := get("/a")
	a := mustNew(t, rbac(ir.Deny, rule("a", attr(ir.AttrPath, ir.Exact, "/a"), nil)))
	b := mustNew(t, rbac(ir.Deny, rule("b", attr(ir.AttrPath, ir.Exact, "/b"), nil)))
	for range 2 {
		if a.Check(in, nil).Allow || !b.Check(in, nil).Allow {
			t.Fatal("the engines disturb each other")
		}
	}
}
