package up

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/admin"
	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Retirement is what stands in the way of taking the old root out of the trust
// bundle, and whether it was taken out.
type Retirement struct {
	Retired bool     `json:"retired"`
	Roots   []string `json:"roots"` // the old ones, subjects with serials; none where old and new issuer share a root
	// Until is when the last certificate of the old issuer ends, and the old root
	// with it.
	Until      time.Time   `json:"until"`
	Dependents []Dependent `json:"dependents"`
}

// Dependent is a certificate of an old root that is in use.
type Dependent struct {
	Workload string    `json:"workload"`
	User     string    `json:"user"` // sidecar or application
	Identity string    `json:"identity,omitempty"`
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"`
	// Unknown is why the sidecar could not be asked: what it holds counts as of
	// the old root.
	Unknown string `json:"unknown,omitempty"`
}

// retirement says what depends on the old root (GET /v1/ca/retire).
func (r *room) retirement(w http.ResponseWriter, req *http.Request) {
	out, err := r.dependents(req.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	admin.WriteJSON(w, http.StatusOK, out)
}

// retire takes the old root out of every sidecar's bundle if nothing depends on
// it, or with force (POST /v1/ca/retire?force=true). The answer comes when every
// connected sidecar runs without it.
func (r *room) retire(w http.ResponseWriter, req *http.Request) {
	out, err := r.dependents(req.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	if len(out.Dependents) == 0 || req.URL.Query().Get("force") == "true" {
		if err := r.authority.Retire(); err != nil { // its time has come meanwhile
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		r.log.Warn("the old root is retired by hand", "roots", out.Roots, "dependents", len(out.Dependents))
		if err := r.announce(req.Context()); err != nil {
			http.Error(w, "the old root is retired, but "+err.Error(), http.StatusGatewayTimeout)
			return
		}
		out.Retired = true
	}
	admin.WriteJSON(w, http.StatusOK, out)
}

// dependents asks every sidecar what it holds.
func (r *room) dependents(ctx context.Context) (Retirement, error) {
	status := r.authority.Status()
	stay, leave, err := r.authority.Overlap()
	if err != nil {
		return Retirement{}, fmt.Errorf("%w: the authority is %s", err, status.Phase)
	}
	out := Retirement{Roots: []string{}, Until: status.OldUntil, Dependents: []Dependent{}}
	for _, c := range leave {
		out.Roots = append(out.Roots, ca.Name(c))
	}
	valid := map[string]bool{}
	for _, c := range stay {
		valid[identity.Fingerprint(c)] = true
	}
	askSidecars(r, ctx, "/certs", func(x *resource.Workload, held agent.Certificates, err error) {
		out.Dependents = append(out.Dependents, dependentsOf(x.Name, held, err, valid)...)
	})
	slices.SortFunc(out.Dependents, func(a, b Dependent) int {
		return cmp.Or(cmp.Compare(a.Workload, b.Workload), -cmp.Compare(a.User, b.User))
	})
	return out, nil
}

// dependentsOf picks what one workload holds that chains to none of the roots
// that stay. One without a certificate gets its first of the new root.
func dependentsOf(workload string, held agent.Certificates, err error, valid map[string]bool) (out []Dependent) {
	if err != nil {
		return []Dependent{{Workload: workload, User: "sidecar", Unknown: err.Error()}}
	}
	add := func(user string, i *identity.Info) {
		if i != nil && i.Serial != "" && !valid[i.Root] {
			out = append(out, Dependent{Workload: workload, User: user, Identity: i.URI, Serial: i.Serial, NotAfter: i.NotAfter})
		}
	}
	add("sidecar", &held.Info)
	add("application", held.Application)
	return out
}
