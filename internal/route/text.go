package route

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// text is a compiled string comparison.
type text struct {
	ir.Match
	re *regexp.Regexp
}

func compileText(m ir.Match) (text, error) {
	t := text{Match: m}
	switch m.Kind {
	case ir.Exact, ir.Prefix, ir.Suffix, ir.Contains, ir.Present:
	case ir.Regex:
		if _, err := regexp.Compile(m.Value); err != nil { // "a)|(?:b" would pass inside the group, unanchored
			return t, err
		}
		re, err := regexp.Compile("^(?:" + m.Value + ")$")
		if err != nil {
			return t, err
		}
		t.re = re
	default:
		return t, fmt.Errorf("comparison %q is not supported", m.Kind)
	}
	return t, nil
}

func (t *text) match(s string) bool {
	want := t.Value
	switch t.Kind {
	case ir.Exact:
		if t.IgnoreCase {
			return strings.EqualFold(s, want)
		}
		return s == want
	case ir.Prefix:
		if t.IgnoreCase {
			return len(s) >= len(want) && strings.EqualFold(s[:len(want)], want)
		}
		return strings.HasPrefix(s, want)
	case ir.Suffix:
		if t.IgnoreCase {
			return len(s) >= len(want) && strings.EqualFold(s[len(s)-len(want):], want)
		}
		return strings.HasSuffix(s, want)
	case ir.Contains:
		return strings.Contains(s, want)
	case ir.Regex:
		return t.re.MatchString(s)
	}
	return true // present
}
