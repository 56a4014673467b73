package route

import (
	"errors"
	"strings"
	"unicode/utf8"
)

var errPath = errors.New("path escapes its root or holds a malformed escape")

// NormalizePath applies MeshConfig.pathNormalization, so that routing,
// authorization and the upstream see one path. mode is "" or BASE (RFC 3986
// dot segments, backslash as slash, escapes of unreserved characters decoded,
// characters that may not stand in a path escaped), NONE, MERGE_SLASHES,
// DECODE_AND_MERGE_SLASHES (also %2F and %5C). Other escapes keep their case, as
// Envoy leaves them. Where Envoy lets a malformed escape stand or stops at the
// root, this is an error: what such a path means is anybody's guess. A path that
// is normal already is returned as it is, without allocating.
func NormalizePath(mode, path string) (string, error) {
	if mode == "NONE" || path == "*" || clean(mode, path) {
		return path, nil
	}
	s := path
	if mode == "DECODE_AND_MERGE_SLASHES" {
		s = decodeSlashes(s)
	}
	s, err := canonical(s)
	if err != nil {
		return "", err
	}
	if s, err = removeDots(s); err != nil {
		return "", err
	}
	if mode == "MERGE_SLASHES" || mode == "DECODE_AND_MERGE_SLASHES" {
		s = mergeSlashes(s) // after the dots, as Envoy does: in "a//.." the empty segment goes
	}
	return s, nil
}

// clean reports that nothing would change.
func clean(mode, path string) bool {
	merge := mode == "MERGE_SLASHES" || mode == "DECODE_AND_MERGE_SLASHES"
	for i := 0; i < len(path); i++ {
		switch c := path[i]; c {
		case '.':
			if i > 0 && path[i-1] == '/' {
				return false
			}
		case '/':
			if merge && i > 0 && path[i-1] == '/' {
				return false
			}
		default:
			if special[c] {
				return false
			}
		}
	}
	return true
}

// special are the bytes that canonical changes or must look at: escapes, the
// backslash, and what Envoy's URL library escapes.
var special = func() (t [256]bool) {
	for c := range t {
		t[c] = c <= ' ' || c >= 0x7f || strings.IndexByte("%\\\"<>^`{|}#?", byte(c)) >= 0
	}
	return t
}()

func mergeSlashes(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	return s
}

func decodeSlashes(s string) string {
	return strings.NewReplacer("%2F", "/", "%2f", "/", "%5C", "/", "%5c", "/").Replace(s)
}

// canonical decodes escapes of unreserved characters, which never need one (RFC
// 3986 section 6.2.2.2), escapes what may not stand in a path, and makes a
// backslash a slash. It refuses escapes that are malformed, NUL, and bytes that
// are no UTF-8.
func canonical(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errPath
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+8)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == 0:
			return "", errPath
		case c == '\\':
			b = append(b, '/')
		case c != '%' && special[c]:
			b = append(b, '%', hex[c>>4], hex[c&15])
		case c != '%':
			b = append(b, c)
		default:
			if i+2 >= len(s) {
				return "", errPath
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 || hi == 0 && lo == 0 {
				return "", errPath
			}
			if c := byte(hi<<4 | lo); unreserved(c) {
				b = append(b, c)
			} else {
				b = append(b, s[i:i+3]...)
			}
			i += 2
		}
	}
	return string(b), nil
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// removeDots resolves "." and ".." segments; a path that climbs above its
// root is refused.
func removeDots(s string) (string, error) {
	segments := strings.Split(s, "/")
	out := segments[:1]
	for i, seg := range segments[1:] {
		last := i == len(segments)-2
		switch seg {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) <= 1 {
				return "", errPath
			}
			out = out[:len(out)-1]
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, seg)
		}
	}
	return strings.Join(out, "/"), nil
}
