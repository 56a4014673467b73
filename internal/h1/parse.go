// Package h1 is Tulle's HTTP/1.1 codec (RFC 9112): it reads heads and bodies
// from a connection's buffer without copying and writes them in as few writes
// as the message allows.
//
// It is strict where leniency lets two parsers disagree (request smuggling):
// a bare LF, obs-fold, blanks around a field name, Transfer-Encoding together
// with Content-Length, repeated or malformed lengths and any transfer coding
// but a single "chunked" are errors, never repaired.
package h1

import (
	"bytes"
	"strings"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/header"
)

// Limits on what a peer may send. Envoy's defaults where it has one.
const (
	MaxHead      = 60 << 10 // bytes of request or status line and fields
	MaxFields    = 100
	maxChunkLine = 256 // size, extensions; extensions are read over and dropped
	maxTrailer   = 8 << 10
)

// Error is a violation of the protocol by the peer, or of a limit. Status is
// what a server answers it with; Detail follows Envoy's response code details.
type Error struct {
	Status int
	Detail string
}

func (e *Error) Error() string { return "http1: " + e.Detail }

func bad(detail string) error { return &Error{400, detail} }

// view makes a string of buffer bytes without copying.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// byte classes
const (
	isToken = 1 << iota
	isValue // field-content, with obs-text and horizontal tab
	isTarget
)

var class, lower = func() (c [256]uint8, l [256]byte) {
	for i := range c {
		l[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			l[i] = byte(i) + 'a' - 'A'
		}
		if i >= 0x20 && i != 0x7f || i == '\t' {
			c[i] |= isValue
		}
		if i > 0x20 && i != 0x7f {
			c[i] |= isTarget
		}
		if 'a' <= l[i] && l[i] <= 'z' || '0' <= i && i <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", byte(i)) >= 0 && i != 0 {
			c[i] |= isToken
		}
	}
	return c, l
}()

func all(b []byte, want uint8) bool {
	for _, c := range b {
		if class[c]&want == 0 {
			return false
		}
	}
	return true
}

// parseRequest parses a complete head that ends with an empty line.
func parseRequest(b []byte, h *header.Head) error {
	h.Reset()
	line, rest, err := cutLine(b)
	if err != nil {
		return err
	}
	sp1 := bytes.IndexByte(line, ' ')
	sp2 := bytes.LastIndexByte(line, ' ')
	if sp1 <= 0 || sp2 == sp1 {
		return bad("http1.invalid_request_line")
	}
	method, target, version := line[:sp1], line[sp1+1:sp2], line[sp2+1:]
	if !all(method, isToken) || len(target) == 0 || !all(target, isTarget) {
		return bad("http1.invalid_request_line")
	}
	if err := readVersion(h, version); err != nil {
		return err
	}
	h.Method, h.Target = view(method), view(target)
	if err := readFields(h, rest); err != nil {
		return err
	}
	if err := readTarget(h); err != nil {
		return err
	}
	return requestFraming(h)
}

// parseResponse parses a complete response head; method is the request's.
func parseResponse(b []byte, h *header.Head, method string) error {
	h.Reset()
	line, rest, err := cutLine(b)
	if err != nil {
		return err
	}
	if len(line) < 12 || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return bad("http1.invalid_status_line")
	}
	if err := readVersion(h, line[:8]); err != nil {
		return err
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return bad("http1.invalid_status_line")
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 || !all(line[12:], isValue) {
		return bad("http1.invalid_status_line")
	}
	if len(line) > 13 {
		h.Reason = view(line[13:])
	}
	if err := readFields(h, rest); err != nil {
		return err
	}
	return responseFraming(h, method)
}

func readVersion(h *header.Head, v []byte) error {
	switch view(v) {
	case "HTTP/1.1":
		h.KeepAlive = true
	case "HTTP/1.0":
		h.HTTP10 = true
	default:
		if bytes.HasPrefix(v, []byte("HTTP/")) {
			return &Error{505, "http1.unsupported_version"}
		}
		return bad("http1.invalid_version")
	}
	return nil
}

// cutLine takes one CRLF-terminated line.
func cutLine(b []byte) (line, rest []byte, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return nil, nil, bad("http1.bare_lf")
	}
	line = b[:i-1]
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, nil, bad("http1.bare_cr")
	}
	return line, b[i+1:], nil
}

// fields parses the field lines up to the empty line.
func readFields(h *header.Head, b []byte) error {
	var hasHost, hasLength, hasCoding bool
	for {
		line, rest, err := cutLine(b)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		b = rest
		name, value, err := cutField(line)
		if err != nil {
			return err
		}
		if len(h.Fields.Fields) >= MaxFields {
			return &Error{431, "http1.too_many_headers"}
		}
		switch name { // what belongs to this hop leaves the list
		case "host":
			if hasHost {
				return bad("http1.duplicate_host")
			}
			hasHost, h.Host = true, value
		case "content-length":
			if hasLength {
				return bad("http1.duplicate_content_length")
			}
			n, ok := parseLength(value)
			if !ok {
				return bad("http1.invalid_content_length")
			}
			hasLength, h.HasLength, h.Length = true, true, n
		case "transfer-encoding":
			if hasCoding || !strings.EqualFold(value, "chunked") {
				return &Error{501, "http1.invalid_transfer_encoding"}
			}
			hasCoding = true
		case "connection":
			if h.Connection != "" {
				value = h.Connection + "," + value
			}
			h.Connection = value
		case "upgrade":
			h.Upgrade = value
		case "te":
			h.Trailers = hasOption(value, "trailers")
		case "expect":
			if !strings.EqualFold(value, "100-continue") {
				return &Error{417, "http1.unknown_expectation"}
			}
			h.Expect100 = true
		case "keep-alive", "proxy-connection":
		default:
			h.Fields.Fields = append(h.Fields.Fields, header.Field{Name: name, Value: value})
		}
	}
	if hasCoding && (hasLength || h.HTTP10) {
		return bad("http1.content_length_and_chunked_not_allowed")
	}
	switch {
	case hasCoding:
		h.Framing = header.Open
	case hasLength:
		h.Framing = header.Length
	}
	return readConnection(h)
}

func cutField(line []byte) (name, value string, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return "", "", bad("http1.invalid_header") // also obs-fold: a line that starts with a blank
	}
	n := line[:colon]
	for i, c := range n {
		if class[c]&isToken == 0 {
			return "", "", bad("http1.invalid_header_name")
		}
		n[i] = lower[c]
	}
	v := line[colon+1:]
	for len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for len(v) > 0 && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	if !all(v, isValue) {
		return "", "", bad("http1.invalid_header_value")
	}
	return view(n), view(v), nil
}

// connectionOptions applies the Connection field: close, keep-alive, upgrade,
// and the names of fields that must not be forwarded (RFC 9110 section 7.6.1).
func readConnection(h *header.Head) error {
	upgrade := false
	for rest := h.Connection; rest != ""; {
		var option string
		option, rest, _ = strings.Cut(rest, ",")
		option = strings.Trim(option, " \t")
		switch {
		case option == "":
		case strings.EqualFold(option, "close"):
			h.KeepAlive = false
		case strings.EqualFold(option, "keep-alive"):
			h.KeepAlive = true
		case strings.EqualFold(option, "upgrade"):
			upgrade = true
		default:
			h.Fields.Del(strings.ToLower(option))
		}
	}
	if hasOption(h.Connection, "close") {
		h.KeepAlive = false
	}
	if !upgrade {
		h.Upgrade = ""
	}
	return nil
}

func hasOption(list, option string) bool {
	for list != "" {
		var v string
		v, list, _ = strings.Cut(list, ",")
		if strings.EqualFold(strings.Trim(v, " \t"), option) {
			return true
		}
	}
	return false
}

func parseLength(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// target splits the request target (RFC 9112 section 3.2). CONNECT is refused
// here: no route of Istio's sidecars accepts it.
func readTarget(h *header.Head) error {
	t := h.Target
	switch {
	case h.Method == "CONNECT":
		return &Error{405, "http1.connect_not_allowed"}
	case t[0] == '/':
		h.Path = t
	case t == "*" && h.Method == "OPTIONS":
		h.Path = t
	default:
		scheme, rest, ok := strings.Cut(t, "://")
		if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return bad("http1.invalid_url")
		}
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		authority := rest[:end]
		if authority == "" || strings.IndexByte(authority, '@') >= 0 {
			return bad("http1.invalid_url")
		}
		// RFC 9112 section 3.2.2: the target's authority replaces Host. A Host
		// that says otherwise is a sign of a confused or hostile peer.
		if h.Host != "" && !strings.EqualFold(h.Host, authority) {
			return bad("http1.host_and_target_differ")
		}
		h.Host, h.Scheme, h.Path = authority, strings.ToLower(scheme), rest[end:]
		switch {
		case h.Path == "":
			h.Path = "/"
		case h.Path[0] == '?':
			h.Path = "/" + h.Path
		}
	}
	if strings.IndexByte(h.Path, '#') >= 0 {
		return bad("http1.fragment_in_url")
	}
	if h.Host == "" && !h.HTTP10 {
		return bad("http1.missing_host")
	}
	for i := 0; i < len(h.Host); i++ {
		if c := h.Host[i]; class[c]&isToken == 0 && c != ':' && c != '[' && c != ']' || c == '#' || c == '|' || c == '^' || c == '`' {
			return bad("http1.invalid_host")
		}
	}
	return nil
}

func requestFraming(h *header.Head) error {
	if h.Framing == header.Length && h.Length == 0 {
		h.Framing = header.NoBody // nothing follows; the writer still says "content-length: 0" where the method wants it
	}
	return nil
}

// responseFraming follows RFC 9112 section 6.3.
func responseFraming(h *header.Head, method string) error {
	switch {
	case h.Status < 200 || h.Status == 204 || h.Status == 304 || method == "HEAD":
		if h.Status < 200 || h.Status == 204 {
			h.Length = 0
		}
		h.Framing = header.NoBody
	case h.Framing == header.NoBody:
		h.Framing = header.UntilClose
		h.KeepAlive = false
	}
	return nil
}
