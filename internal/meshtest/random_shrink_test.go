package meshtest

import (
	"maps"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

// shrink takes away whatever objects, fields and list entries still fails
// without. failing must say true of what it is given.
func shrink(objects []tree, failing func([]tree) bool) []tree {
	objects = plain(objects)
	for again := true; again; {
		again = false
		for _, less := range without(objects) {
			if candidate := trees(less); failing(candidate) {
				objects, again = plain(candidate), true
				break
			}
		}
	}
	return objects
}

// plain makes every list a []any and every object its own.
func plain(objects []tree) (out []tree) {
	text, err := yaml.Marshal(objects)
	if err != nil || yaml.Unmarshal(text, &out) != nil {
		panic("what was generated is YAML")
	}
	return out
}

func trees(list any) (out []tree) {
	switch list := list.(type) {
	case []tree:
		return list
	case []any:
		for _, o := range list {
			out = append(out, o.(tree))
		}
	}
	return out
}

// without lists v with one part less, the large parts first.
func without(v any) (out []any) {
	switch v := v.(type) {
	case []tree:
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		return without(list)
	case []any:
		for i := range v {
			out = append(out, slices.Delete(slices.Clone(v), i, i+1))
		}
		for i := range v {
			for _, less := range without(v[i]) {
				c := slices.Clone(v)
				c[i] = less
				out = append(out, c)
			}
		}
	case tree:
		keys := slices.Sorted(maps.Keys(v))
		for _, k := range keys {
			c := maps.Clone(v)
			delete(c, k)
			out = append(out, c)
		}
		for _, k := range keys {
			for _, less := range without(v[k]) {
				c := maps.Clone(v)
				c[k] = less
				out = append(out, c)
			}
		}
	}
	return out
}

// TestShrink: nothing is left but what fails.
func TestShrink(t *testing.T) {
	got := shrink([]tree{
		{"kind": "A", "spec": tree{"a": []string{"x", "y"}, "b": 1}},
		{"kind": "B", "spec": tree{"list": []tree{{"n": 1}, {"n": 2, "m": 3}}}},
	}, func(objects []tree) bool {
		for _, o := range objects {
			spec, _ := o["spec"].(tree)
			list, _ := spec["list"].([]any)
			for _, e := range list {
				if e.(tree)["n"] == float64(2) {
					return true
				}
			}
		}
		return false
	})
	if text := written(got); text != "spec:\n  list:\n  - \"n\": 2\n" {
		t.Errorf("%s", text)
	}
}
