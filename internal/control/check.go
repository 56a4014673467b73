package control

import (
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Check returns the problems that compiling a set shows, for all of its
// workloads' proxies.
func Check(set *resource.Set) []resource.Problem {
	x := compile.Prepare(set)
	done := map[string]bool{} // replicas are alike
	for _, w := range set.Workloads {
		if key := w.Namespace + "/" + w.OwnerKind + "/" + w.Owner; (w.Sidecar || w.Gateway) && !done[key] {
			done[key] = true
			x.Snapshot(x.Node(w))
		}
	}
	return x.Problems()
}
