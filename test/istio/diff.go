package istio

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// difference is one path on which the two sides do not agree. An empty value
// means that the side does not say it.
type difference struct {
	node, path   string
	ours, theirs string
	origin       string // where the user wrote what Tulle's side follows from
}

func (d difference) String() string {
	show := func(v string) string {
		if v == "" {
			return "-"
		}
		return v
	}
	s := fmt.Sprintf("  %s: %s\n      Tulle: %s\n      Istio: %s", d.node, d.path, show(d.ours), show(d.theirs))
	if d.origin != "" {
		s += "\n      from:  " + d.origin
	}
	return s
}

// compare lists the differences of one proxy, by path.
func compare(node string, ours, theirs *envoy) []difference {
	a, b := reached(project(ours)), reached(project(theirs))
	all := maps.Clone(a)
	maps.Copy(all, b)
	var out []difference
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if a[path] != b[path] {
			out = append(out, difference{node, path, a[path], b[path], originOf(ours.origins, path)})
		}
	}
	return fold(out, a, b)
}

// fold replaces the differences inside an object that only one side has by one
// line for the object.
func fold(list []difference, a, b projection) []difference {
	known := func(p projection, object string) bool {
		for path := range p {
			if strings.HasPrefix(path, object) {
				return true
			}
		}
		return false
	}
	var out []difference
	done := map[string]bool{}
	for _, d := range list {
		object := missing(d.path, func(object string) bool { return known(a, object) != known(b, object) })
		switch {
		case object == "":
			out = append(out, d)
		case !done[object]:
			done[object] = true
			f := difference{node: d.node, path: object, origin: d.origin}
			if d.ours != "" {
				f.ours = "present"
			} else {
				f.theirs = "present"
			}
			out = append(out, f)
		}
	}
	return out
}

// missing finds the outermost keyed object ("cluster[x]", "….routes[3]") around
// path for which onlyOne holds.
func missing(path string, onlyOne func(string) bool) string {
	depth := 0
	for i, c := range path {
		switch c {
		case '[':
			depth++
		case ']':
			if depth--; depth == 0 && onlyOne(path[:i+1]) {
				return path[:i+1]
			}
		}
	}
	return ""
}

func originOf(origins map[string]string, path string) string {
	best := ""
	for prefix := range origins {
		if strings.HasPrefix(path, prefix) && len(prefix) > len(best) {
			best = prefix
		}
	}
	return origins[best]
}

// decision is one entry of decisions.yaml: a difference that is meant. Case
// and Path are regular expressions over the whole text; Node and what either
// side says do not matter.
type decision struct {
	Case string `json:"case,omitempty"` // empty: everywhere; such a difference does not count against a case
	Path string `json:"path,omitempty"`
	// Refused: Tulle refuses the configuration with a message that contains
	// this. Nothing else of the case is compared.
	Refused string `json:"refused,omitempty"`
	// Accepted: Istio refuses the configuration, Tulle does not.
	Accepted bool   `json:"accepted,omitempty"`
	Reason   string `json:"reason"`

	caseRE, pathRE *regexp.Regexp
	used           bool
}

func readDecisions(path string) ([]*decision, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []*decision
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, d := range list {
		if d.Reason == "" || d.Path == "" && d.Refused == "" && !d.Accepted {
			return nil, fmt.Errorf("%s: entry %d: want a reason, and one of path, refused and accepted", path, i)
		}
		if d.caseRE, err = regexp.Compile("^(?:" + d.Case + ")$"); err == nil {
			d.pathRE, err = regexp.Compile("^(?:" + d.Path + ")$")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", path, i, err)
		}
	}
	return list, nil
}

func (d *decision) about(name string) bool { return d.Case == "" || d.caseRE.MatchString(name) }

// accepts reports whether the difference is meant, and whether it counts.
func accepts(list []*decision, name string, diff difference) (meant, counts bool) {
	for _, d := range list {
		if d.Path != "" && d.about(name) && d.pathRE.MatchString(diff.path) {
			d.used = true
			return true, d.Case != ""
		}
	}
	return false, false
}
