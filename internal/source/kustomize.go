package source

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
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

// kustomizeFolders are the folders that a kustomization builds from, itself
// first: a base may lie beside it.
func kustomizeFolders(dir string, seen map[string]bool) []string {
	if dir = filepath.Clean(dir); seen[dir] {
		return nil
	}
	seen[dir] = true
	out := []string{dir}
	b, err := os.ReadFile(kustomization(dir))
	if err != nil {
		return out
	}
	var k struct{ Resources, Bases, Components []string }
	_ = yaml.Unmarshal(b, &k) // kustomize itself says what is wrong with it
	for _, r := range slices.Concat(k.Resources, k.Bases, k.Components) {
		if strings.Contains(r, "://") {
			continue
		}
		p := filepath.Join(dir, r)
		if info, err := os.Stat(p); err == nil && !info.IsDir() {
			p = filepath.Dir(p)
		}
		out = append(out, kustomizeFolders(p, seen)...)
	}
	return out
}
