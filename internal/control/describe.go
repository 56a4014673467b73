package control

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/admin"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// describeService answers with every service that the name means, each with the
// problems of whatever is named in its view.
func (c *Control) describeService(w http.ResponseWriter, r *http.Request, s *State) {
	name, namespace := r.PathValue("name"), r.URL.Query().Get("namespace")
	views := s.Index.DescribeServices(name, namespace)
	if len(views) == 0 {
		notThere(w, "service", name, namespace, s.Index.ServiceNames())
		return
	}
	for _, v := range views {
		v.Problems = append(v.Problems, problemsOf(s, serviceOrigins(v))...)
	}
	admin.WriteJSON(w, http.StatusOK, views)
}

// describePod answers with the first instance that the name means; one in a
// list, as the others are.
func (c *Control) describePod(w http.ResponseWriter, r *http.Request, s *State) {
	name, namespace := r.PathValue("name"), r.URL.Query().Get("namespace")
	var there []*resource.Workload
	var names []string
	for _, x := range s.Set.Workloads {
		names = append(names, x.Key())
		if namespace == "" || x.Namespace == namespace {
			there = append(there, x)
		}
	}
	found := resource.Named(there, name, (*resource.Workload).Naming)
	if len(found) == 0 {
		notThere(w, "pod", name, namespace, names)
		return
	}
	v := s.Index.DescribeWorkload(found[0])
	origins := append(policyOrigins(v.Policies), portOrigins(v.Ports)...)
	origins = append(origins, ir.Origin{Kind: found[0].OwnerKind, Namespace: v.Namespace, Name: found[0].Owner})
	for _, service := range v.Services {
		origins = append(origins, serviceOrigins(service)...)
	}
	v.Problems = problemsOf(s, origins)
	admin.WriteJSON(w, http.StatusOK, []*compile.WorkloadView{v})
}

func notThere(w http.ResponseWriter, what, name, namespace string, names []string) {
	in := ""
	if namespace != "" {
		in = " in namespace " + namespace
	}
	slices.Sort(names)
	http.Error(w, fmt.Sprintf("no %s %q%s; there are: %s", what, name, in, strings.Join(names, ", ")), http.StatusNotFound)
}

// problemsOf are those of any of the objects.
func problemsOf(s *State, objects []ir.Origin) []resource.Problem {
	out := []resource.Problem{}
	for _, p := range s.Problems() {
		if slices.ContainsFunc(objects, func(o ir.Origin) bool {
			return o.Kind != "" && o.Kind == p.Origin.Kind && o.Namespace == p.Origin.Namespace && o.Name == p.Origin.Name
		}) {
			out = append(out, p)
		}
	}
	return out
}

func serviceOrigins(v *compile.ServiceView) []ir.Origin {
	out := append(policyOrigins(v.Policies), portOrigins(v.Ports)...)
	out = append(out, v.Origin)
	for _, r := range v.Routes {
		out = append(out, r.Origin)
	}
	for _, r := range v.Rules {
		out = append(out, r.Origin)
	}
	return out
}

func policyOrigins(list []compile.PolicyView) []ir.Origin {
	var out []ir.Origin
	for _, p := range list {
		out = append(out, p.Origin)
	}
	return out
}

func portOrigins(list []compile.PortView) []ir.Origin {
	var out []ir.Origin
	for _, p := range list {
		for _, m := range p.Modes {
			out = append(out, m.Origin)
		}
	}
	return out
}
