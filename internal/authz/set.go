package authz

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// set is an OR over values of one text: what is compared whole is looked up,
// so that a long list costs what a short one does.
type set struct {
	leaves             []*leaf // all of them, for Trace
	read               reader
	exact              map[string]struct{}
	prefixes, suffixes []string
	rest               []*leaf // compared one by one
}

func (s *set) match(in *Input) bool {
	v, ok := s.read(in)
	if !ok {
		return false
	}
	if _, ok := s.exact[v]; ok {
		return true
	}
	for _, p := range s.prefixes {
		if strings.HasPrefix(v, p) {
			return true
		}
	}
	for _, p := range s.suffixes {
		if strings.HasSuffix(v, p) {
			return true
		}
	}
	for _, l := range s.rest {
		if l.text(v) {
			return true
		}
	}
	return false
}

// gather makes sets of the parts of an OR that look at the same text. Order
// plays no role in an OR.
func gather(list []matcher) matcher {
	var out some
	type key struct {
		attr ir.Attr
		name string
	}
	sets := map[key]*set{}
	for _, m := range list {
		l, ok := m.(*leaf)
		if !ok || l.read == nil {
			out = append(out, m)
			continue
		}
		k := key{l.expr.Attr, l.expr.Key}
		if sets[k] == nil {
			sets[k] = &set{read: l.read}
			out = append(out, sets[k])
		}
		sets[k].add(l)
	}
	for i, m := range out {
		if s, ok := m.(*set); ok && len(s.leaves) == 1 {
			out[i] = s.leaves[0]
		}
	}
	if len(out) == 1 {
		return out[0]
	}
	return out
}

func (s *set) add(l *leaf) {
	s.leaves = append(s.leaves, l)
	v := l.expr.Value
	switch {
	case v.Kind == ir.Exact && !v.IgnoreCase:
		if s.exact == nil {
			s.exact = map[string]struct{}{}
		}
		s.exact[v.Value] = struct{}{}
	case v.Kind == ir.Prefix && !v.IgnoreCase:
		s.prefixes = append(s.prefixes, v.Value)
	case v.Kind == ir.Suffix && !v.IgnoreCase:
		s.suffixes = append(s.suffixes, v.Value)
	default:
		s.rest = append(s.rest, l)
	}
}
