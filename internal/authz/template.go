package authz

import (
	"fmt"
	"strings"
)

// template compiles a path template: {*} is one segment that is not empty,
// {**} any text, also none, and the last operator. Envoy's operators leave out
// characters that have no place in a path; here they take any, so that no odd
// character dodges a DENY rule.
func template(want string) (func(string) bool, error) {
	var parts []string // literal texts; between them stands a {*}
	rest, tail, open := want, "", false
	for !open {
		i := strings.IndexByte(rest, '{')
		switch {
		case i < 0:
			parts, rest = append(parts, rest), ""
		case strings.HasPrefix(rest[i:], "{*}"):
			parts, rest = append(parts, rest[:i]), rest[i+3:]
			continue
		case strings.HasPrefix(rest[i:], "{**}"):
			parts, tail, open = append(parts, rest[:i]), rest[i+4:], true
			continue
		default:
			return nil, fmt.Errorf("path template %q: only {*} and {**} are known", want)
		}
		break
	}
	if strings.Contains(tail, "{") {
		return nil, fmt.Errorf("path template %q: nothing may follow {**}", want)
	}
	t := &segments{open: open, tail: tail}
	return func(s string) bool {
		// What ends a template is usually what tells it from others.
		return (open || strings.HasSuffix(s, parts[len(parts)-1])) && t.match(s, parts)
	}, nil
}

// segments matches literal, {*}, literal, {*} …, literal, and then the end or,
// if open, anything that ends with tail. An operator shares its segment with
// nothing in what users write, but the engine does not rely on it.
type segments struct {
	open bool
	tail string
}

func (t *segments) match(s string, parts []string) bool {
	s, ok := strings.CutPrefix(s, parts[0])
	switch {
	case !ok:
		return false
	case len(parts) == 1 && t.open:
		return strings.HasSuffix(s, t.tail)
	case len(parts) == 1:
		return s == ""
	}
	n := strings.IndexByte(s, '/')
	if n < 0 {
		n = len(s)
	}
	if next := parts[1]; next != "" && next[0] == '/' || next == "" && !t.open {
		return n > 0 && t.match(s[n:], parts[1:])
	}
	for ; n > 0; n-- {
		if t.match(s[n:], parts[1:]) {
			return true
		}
	}
	return false
}
