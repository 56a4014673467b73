package source

import (
	"os"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// plainResources returns what a kustomization lists if it does nothing else.
func plainResources(file string) ([]string, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, false
	}
	var k map[string]any
	if err := yaml.Unmarshal(b, &k); err != nil {
		return nil, false
	}
	var out []string
	for key, v := range k {
		switch key {
		case "apiVersion", "kind", "metadata":
		case "resources":
			list, _ := v.([]any)
			for _, r := range list {
				s, ok := r.(string)
				if !ok {
					return nil, false
				}
				out = append(out, s)
			}
		default:
			return nil, false
		}
	}
	return out, true
}

// keepLastGood brings back the previous version of every object that now has
// an error, so that a slip of the editor does not take down what runs.
func keepLastGood(set, last *resource.Set, problems []resource.Problem) []resource.Problem {
	broken := map[[3]string]bool{}
	files := map[string]bool{}
	for _, p := range problems {
		if p.Severity != resource.Error {
			continue
		}
		if p.Origin.Kind == "File" {
			files[p.Origin.File] = true
		}
		broken[[3]string{p.Origin.Kind, p.Origin.Namespace, p.Origin.Name}] = true
	}
	if len(broken) == 0 {
		return problems
	}
	kept := map[[3]string]bool{}
	restore(&set.VirtualServices, last.VirtualServices, broken, files, kept)
	restore(&set.DestinationRules, last.DestinationRules, broken, files, kept)
	restore(&set.Gateways, last.Gateways, broken, files, kept)
	restore(&set.ServiceEntries, last.ServiceEntries, broken, files, kept)
	restore(&set.PeerAuthentications, last.PeerAuthentications, broken, files, kept)
	restore(&set.AuthorizationPolicies, last.AuthorizationPolicies, broken, files, kept)
	restore(&set.Namespaces, last.Namespaces, broken, files, kept)
	restore(&set.Services, last.Services, broken, files, kept)
	restore(&set.ServiceAccounts, last.ServiceAccounts, broken, files, kept)
	restore(&set.ConfigMaps, last.ConfigMaps, broken, files, kept)
	restore(&set.Secrets, last.Secrets, broken, files, kept)
	restore(&set.Deployments, last.Deployments, broken, files, kept)
	restore(&set.StatefulSets, last.StatefulSets, broken, files, kept)
	restore(&set.Jobs, last.Jobs, broken, files, kept)
	if kept[[3]string{"ConfigMap", last.MeshFrom.Namespace, last.MeshFrom.Name}] && set.Mesh == nil {
		set.Mesh, set.MeshFrom = last.Mesh, last.MeshFrom
	}
	if set.Mesh == nil && broken[[3]string{"ConfigMap", "istio-system", "istio"}] {
		set.Mesh, set.MeshFrom = last.Mesh, last.MeshFrom
	}
	denied := set.Denied[:0:0]
	for _, d := range set.Denied {
		if !kept[[3]string{d.Kind, d.Namespace, d.Name}] {
			denied = append(denied, d)
		}
	}
	set.Denied = denied
	for i := range problems {
		o := problems[i].Origin
		if problems[i].Severity == resource.Error && (kept[[3]string{o.Kind, o.Namespace, o.Name}] || files[o.File]) {
			if problems[i].Hint != "" {
				problems[i].Hint += "; "
			}
			problems[i].Hint += "the previous version stays in force"
		}
	}
	return problems
}

func restore[S any](now *[]*resource.Object[S], last []*resource.Object[S], broken map[[3]string]bool, files map[string]bool, kept map[[3]string]bool) {
	have := map[[3]string]bool{}
	for _, o := range *now {
		have[[3]string{o.Kind, o.Namespace, o.Name}] = true
	}
	for _, o := range last {
		key := [3]string{o.Kind, o.Namespace, o.Name}
		if !have[key] && (broken[key] || files[o.Pos.File]) {
			*now = append(*now, o)
			kept[key] = true
		}
	}
}
