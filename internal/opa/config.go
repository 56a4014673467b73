package opa

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const maxConfig = 1 << 20

// configFile reads OPA's configuration file: what --set knows, and bundles that
// are files here. Everything else is refused by name.
func (o *Options) configFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxConfig {
		return fmt.Errorf("%s: larger than %d MiB", path, maxConfig>>20)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	bundles, _ := doc["bundles"].(map[string]any)
	delete(doc, "bundles")
	for name, v := range bundles {
		bundle, _ := v.(map[string]any)
		resource, _ := bundle["resource"].(string)
		file, local := strings.CutPrefix(resource, "file://")
		for key := range bundle {
			if key != "resource" || !local {
				return fmt.Errorf("%s: bundles.%s.%s: only a resource file://… is supported, which is watched", path, name, key)
			}
		}
		o.Paths = append(o.Paths, file)
	}
	slices.Sort(o.Paths)
	for _, key := range flatten("", doc, nil) {
		if err := o.set(key); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// flatten writes a document as --set takes it, in a stable order.
func flatten(prefix string, doc map[string]any, out []string) []string {
	keys := make([]string, 0, len(doc))
	for k := range doc {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if section, ok := doc[k].(map[string]any); ok && len(section) > 0 {
			out = flatten(prefix+k+".", section, out)
		} else {
			out = append(out, prefix+k+"="+fmt.Sprint(doc[k]))
		}
	}
	return out
}
