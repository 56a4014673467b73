package header

import "strings"

// MayTrail reports whether a field of that name (lower case) may stand behind a
// body. What frames, routes or authorizes a message, or says where it came from,
// has been decided by the time a trailer arrives (RFC 9110 section 6.5.1).
func MayTrail(name string) bool {
	switch name {
	case "transfer-encoding", "content-length", "host", "connection", "keep-alive", "proxy-connection", "upgrade", "te", "trailer", "expect",
		"authorization", "proxy-authorization", "cookie", "set-cookie", "forwarded":
		return false
	}
	return !strings.HasPrefix(name, "x-forwarded-")
}
