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
	return func(s string) bool {
		return segments(s, parts, func(s string) bool {
			if open {
				return strings.HasSuffix(s, tail)
			}
			return s == ""
		})
	}, nil
}

// segments matches literal, {*}, literal, {*} …, literal; end decides about
// what comes then. An operator shares its segment with nothing in what users
// write, but the engine does not rely on it.
func segments(s string, parts []string, end func(string) bool) bool {
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	if len(parts) == 1 {
		return end(s)
	}
	limit := strings.IndexByte(s, '/')
	if limit < 0 {
		limit = len(s)
	}
	for n := limit; n > 0; n-- {
		if segments(s[n:], parts[1:], end) {
			return true
		}
	}
	return false
}
