package authz

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// terms is both sides of a policy as one list of terms, all of which must hold.
type terms []term

// term is one of them; not: it must not match.
type term struct {
	not bool
	set *set // or
	any matcher
}

func (r terms) match(in *Input) bool {
	for i := range r {
		t := &r[i]
		if t.set != nil {
			if t.set.match(in) == t.not {
				return false
			}
		} else if t.any.match(in) == t.not {
			return false
		}
	}
	return true
}

// conjunction takes nested ANDs apart. Terms that tell requests apart best
// come first: most rules fail at their first term.
func conjunction(parts ...matcher) terms {
	var out terms
	for _, m := range parts {
		t := term{any: m}
		if n, ok := m.(negation); ok {
			t = term{any: n.of, not: true}
		}
		switch m := t.any.(type) {
		case anything:
			if !t.not {
				continue
			}
		case all:
			if !t.not {
				out = append(out, conjunction(m...)...)
				continue
			}
		case *set:
			t.set = m
		}
		out = append(out, t)
	}
	slices.SortStableFunc(out, func(a, b term) int { return a.work() - b.work() })
	return out
}

func (t *term) work() int {
	switch {
	case t.set == nil:
		return 4
	case t.not:
		return 3
	case t.set.leaves[0].expr.Attr == ir.AttrPath:
		return 0
	case len(t.set.rest) == 0:
		return 1
	}
	return 2
}
