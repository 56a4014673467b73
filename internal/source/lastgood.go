package source

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// id names an object: kind, namespace, name.
type id [3]string

// faults are the objects and files that have errors.
type faults struct {
	objects map[id]bool
	files   map[string]bool // an error that cannot be put down to one object
}

func faultsOf(problems []resource.Problem) faults {
	f := faults{map[id]bool{}, map[string]bool{}}
	for _, p := range problems {
		if p.Severity != resource.Error {
			continue
		}
		if p.Origin.Kind == "File" || p.Origin.Name == "" {
			f.files[p.Origin.File] = true
		}
		f.objects[id{p.Origin.Kind, p.Origin.Namespace, p.Origin.Name}] = true
	}
	return f
}

// hit reports whether an error may be why an object is missing.
func (f faults) hit(m *resource.Meta) bool {
	return f.objects[id{m.Kind, m.Namespace, m.Name}] || f.files[m.Pos.File]
}

// lostLocals are the Local objects that errors took away since last.
func lostLocals(set, last *resource.Set, problems []resource.Problem) []*resource.Local {
	f := faultsOf(problems)
	var out []*resource.Local
	for _, l := range last.Local {
		same := func(o *resource.Local) bool { return o.Name == l.Name && o.Namespace == l.Namespace }
		if f.hit(&l.Meta) && !slices.ContainsFunc(set.Local, same) {
			out = append(out, l)
		}
	}
	return out
}

// keeper brings back the previous version of objects.
type keeper struct {
	faults
	kept map[id]bool
	from map[[2]string]bool // kind (or "") and file of what was brought back
}

func (k *keeper) keep(m *resource.Meta) {
	k.kept[id{m.Kind, m.Namespace, m.Name}] = true
	k.from[[2]string{m.Kind, m.Pos.File}] = true
	k.from[[2]string{"", m.Pos.File}] = true
}

// keepLastGood brings back the previous version of every object that now has
// an error, so that a slip of the editor does not take down what runs.
func keepLastGood(set, last *resource.Set, problems []resource.Problem) []resource.Problem {
	k := &keeper{faultsOf(problems), map[id]bool{}, map[[2]string]bool{}}
	if len(k.objects) == 0 {
		return problems
	}
	restore(k, &set.VirtualServices, last.VirtualServices)
	restore(k, &set.DestinationRules, last.DestinationRules)
	restore(k, &set.Gateways, last.Gateways)
	restore(k, &set.ServiceEntries, last.ServiceEntries)
	restore(k, &set.WorkloadEntries, last.WorkloadEntries)
	restore(k, &set.WorkloadGroups, last.WorkloadGroups)
	restore(k, &set.Sidecars, last.Sidecars)
	restore(k, &set.PeerAuthentications, last.PeerAuthentications)
	restore(k, &set.AuthorizationPolicies, last.AuthorizationPolicies)
	restore(k, &set.RequestAuths, last.RequestAuths)
	restore(k, &set.Namespaces, last.Namespaces)
	restore(k, &set.Services, last.Services)
	restore(k, &set.ServiceAccounts, last.ServiceAccounts)
	restore(k, &set.ConfigMaps, last.ConfigMaps)
	restore(k, &set.Secrets, last.Secrets)
	restore(k, &set.Deployments, last.Deployments)
	restore(k, &set.StatefulSets, last.StatefulSets)
	restore(k, &set.Jobs, last.Jobs)
	for _, l := range lostLocals(set, last, problems) {
		set.Local = append(set.Local, l)
		k.keep(&l.Meta)
	}
	if set.Mesh == nil && last.Mesh != nil && k.hit(&last.MeshFrom) {
		set.Mesh, set.MeshFrom = last.Mesh, last.MeshFrom
		k.keep(&last.MeshFrom)
	}
	set.Denied = slices.DeleteFunc(set.Denied, func(d resource.Denied) bool {
		return k.kept[id{d.Kind, d.Namespace, d.Name}] || d.Name == "" && k.from[[2]string{d.Kind, d.Pos.File}]
	})
	set.BrokenRego = slices.DeleteFunc(set.BrokenRego, func(m resource.Meta) bool { return k.kept[id{m.Kind, m.Namespace, m.Name}] })
	set.Sort()
	for i := range problems {
		o := problems[i].Origin
		if problems[i].Severity == resource.Error && (k.kept[id{o.Kind, o.Namespace, o.Name}] || k.files[o.File] && k.from[[2]string{"", o.File}]) {
			if problems[i].Hint != "" {
				problems[i].Hint += "; "
			}
			problems[i].Hint += "the previous version stays in force"
		}
	}
	return problems
}

func restore[S any](k *keeper, now *[]*resource.Object[S], last []*resource.Object[S]) {
	have := map[id]bool{}
	for _, o := range *now {
		have[id{o.Kind, o.Namespace, o.Name}] = true
	}
	for _, o := range last {
		if !have[id{o.Kind, o.Namespace, o.Name}] && k.hit(&o.Meta) {
			*now = append(*now, o)
			k.keep(&o.Meta)
		}
	}
}
