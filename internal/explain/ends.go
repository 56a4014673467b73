package explain

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// End is what may come of a request at one of its destinations or instances.
type End struct {
	At      string `json:"at"` // cluster, with the workload behind it
	Allowed bool   `json:"allowed"`
	Leaves  bool   `json:"leaves,omitempty"`
	Status  int    `json:"status,omitempty"`
	Flag    string `json:"flag,omitempty"`
}

// ends follows the request to each of its destinations, and there to each
// workload: the instances of one are alike to its policies.
func (q *question) ends(a *Answer, s *ir.Snapshot, clusters []ir.WeightedCluster) {
	before := q.sent
	for i := range clusters {
		w := &clusters[i]
		q.sent = before
		if q.route != nil {
			q.sent.follow(q.route, w, q.path, q.query)
		}
		after := q.sent
		way := &Answer{}
		targets := q.endpoints(way, s, w)
		if targets == nil {
			a.join(w.Name, way)
		}
		for _, to := range targets {
			q.sent = after
			q.inbound(way, to)
			a.join(w.Name+" at "+owner(to), way)
			way = &Answer{}
		}
	}
	a.settle()
}

// workloads keeps one endpoint for each workload, port and kind of connection.
func workloads(all []*endpoint) (out []*endpoint) {
	type key struct {
		owner string
		port  uint16
		mtls  bool
	}
	seen := map[key]bool{}
	for _, e := range all {
		if k := (key{owner(e), e.address.Port(), e.mtls}); !seen[k] {
			seen[k] = true
			out = append(out, e)
		}
	}
	return out
}

func owner(e *endpoint) string {
	return cmp.Or(e.workload.Owner, e.workload.Name) + "." + e.workload.Namespace
}

// plaintext are the instances of a service that a connection past the caller's
// proxy may come to.
func plaintext(instances []compile.Instance) (out []*endpoint) {
	for _, i := range instances {
		out = append(out, &endpoint{workload: i.Workload, address: netip.AddrPortFrom(i.Workload.Address, i.Port)})
	}
	return workloads(out)
}

// past follows a connection that no proxy of the caller's leads.
func (q *question) past(a *Answer, instances []compile.Instance) {
	before := q.sent
	for _, to := range plaintext(instances) {
		q.sent = before
		way := &Answer{}
		q.inbound(way, to)
		a.join(owner(to), way)
	}
	a.settle()
}

// join adds a way to the answer. The first is told step by step, and so is each
// that ends as none before it did.
func (a *Answer) join(at string, way *Answer) {
	end := End{at, way.Allowed, way.Leaves, way.Status, way.Flag}
	for _, e := range a.Ends {
		if e.At = end.At; e == end {
			return
		}
	}
	if len(a.Ends) == 0 {
		a.Allowed, a.Leaves, a.Status, a.Flag, a.DryRun = way.Allowed, way.Leaves, way.Status, way.Flag, way.DryRun
	} else {
		a.step("otherwise", fmt.Sprintf("at another destination or instance, %s", at), ir.Origin{})
	}
	a.Ends = append(a.Ends, end)
	a.Steps = append(a.Steps, way.Steps...)
}

// settle: one end alone is the answer itself.
func (a *Answer) settle() {
	if len(a.Ends) == 1 {
		a.Ends = nil
	}
}
