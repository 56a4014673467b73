package authz

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// crowd is 20 policies of two rules each that a request by get misses at the
// last value of each rule: its principal, method and port match everywhere.
func crowd(action ir.Action) []ir.Filter {
	var list []ir.Policy
	for p := range 20 {
		for r := range 2 {
			var paths, principals []*ir.Expr
			for i := range 6 {
				paths = append(paths, attr(ir.AttrPath, ir.Exact, fmt.Sprintf("/service-%d/resource-%d/%d", p, r, i)), attr(ir.AttrPath, ir.Prefix, fmt.Sprintf("/service-%d/items-%d/%d/", p, r, i)))
				principals = append(principals, attr(ir.AttrPrincipal, ir.Exact, fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/caller-%d", i)))
			}
			list = append(list, rule(fmt.Sprintf("p%d[%d]", p, r),
				and(or(attr(ir.AttrMethod, ir.Exact, "GET"), attr(ir.AttrMethod, ir.Exact, "HEAD")), port(8080), or(paths...)),
				or(append(principals, attr(ir.AttrPrincipal, ir.Exact, spiffeFront))...)))
		}
	}
	return []ir.Filter{rbac(action, list...)}
}

// BenchmarkMiss is the worst case: every value of every rule is looked at.
func BenchmarkMiss(b *testing.B) {
	for _, action := range []ir.Action{ir.Allow, ir.Deny} {
		b.Run(string(action), func(b *testing.B) {
			e := mustNew(b, crowd(action)...)
			in := get("/service-99/resource-1/5")
			b.ReportAllocs()
			for b.Loop() {
				if e.Check(in, nil).Allow != (action == ir.Deny) {
					b.Fatal("it matched")
				}
			}
		})
	}
}
