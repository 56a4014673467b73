package istio

import (
	"fmt"
	"strings"

	"istio.io/istio/pkg/test"
)

// verdict of one configuration.
type verdict struct {
	name     string
	byChoice bool         // something differs, and all of it is meant
	wrong    []difference // what nobody decided
	note     string       // what is wrong beside the differences
}

func (v *verdict) ok() bool { return len(v.wrong) == 0 && v.note == "" }

func (v *verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:", v.name)
	if v.note != "" {
		fmt.Fprintf(&b, "\n  %s", v.note)
	}
	for _, d := range v.wrong {
		fmt.Fprintf(&b, "\n%s", d)
	}
	return b.String()
}

// judge compares one world. A configuration that both sides refuse agrees.
func judge(t test.Failer, w *world, decisions []*decision) *verdict {
	v := &verdict{name: w.name}
	mine, refused, err := ours(w)
	if err != nil {
		v.note = "Tulle fails: " + err.Error()
		return v
	}
	his, rejected := theirs(t, w)
	switch {
	case rejected != nil && len(refused) > 0:
		return v
	case rejected != nil:
		for _, d := range decisions {
			if d.Accepted && d.about(w.name) {
				d.used, v.byChoice = true, true
				return v
			}
		}
		v.note = "Istio refuses it, Tulle does not: " + rejected.Error()
		return v
	}
	for _, problem := range refused {
		if !strings.Contains(problem.Reason, "not supported") {
			continue // a fault the user is told of; what is made of the rest is compared
		}
		found := false
		for _, d := range decisions {
			if d.Refused != "" && d.about(w.name) && strings.Contains(problem.String(), d.Refused) {
				d.used, v.byChoice, found = true, true, true
			}
		}
		if !found {
			v.note = "Tulle refuses it, Istio does not: " + problem.String()
		}
	}
	if v.note != "" || v.byChoice {
		return v
	}
	for _, node := range w.nodes {
		for _, d := range compare(node, mine[node], his[node]) {
			meant, counts := accepts(decisions, w.name, d)
			if !meant {
				v.wrong = append(v.wrong, d)
			}
			v.byChoice = v.byChoice || counts
		}
	}
	return v
}
