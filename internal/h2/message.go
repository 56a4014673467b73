package h2

import (
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/header"
)

// message collects the fields of one header block and judges them (RFC 9113
// section 8). What is wrong with them is a fault of the stream, not of the
// connection, so decoding goes on behind it and keeps the tables in step.
type message struct {
	h       *header.Head
	a       *arena
	trailer bool
	request bool
	limits  *Options

	size, count int
	tooLarge    bool
	bad         string // the first fault
	regular     bool   // a field that is no pseudo field was seen
	has         pseudo // which pseudo fields were seen
	host        string // the Host field, apart from :authority
	hasHost     bool
	cookie      int // index of the cookie field plus 1
}

type pseudo uint8

const (
	hasMethod pseudo = 1 << iota
	hasScheme
	hasPath
	hasAuthority
	hasProtocol
	hasStatus
)

func (m *message) begin(h *header.Head, a *arena, o *Options, trailer bool) {
	*m = message{h: h, a: a, limits: o, request: o.Server, trailer: trailer}
	h.Reset()
}

func (m *message) fault(what string) {
	if m.bad == "" {
		m.bad = what
	}
}

// field takes the next field.
func (m *message) field(e *entry) {
	m.size += len(e.name) + len(e.value) + entryOverhead
	m.count++
	if m.size > m.limits.MaxHeaderBytes || m.count > m.limits.MaxFields+6 {
		m.tooLarge = true
		return
	}
	switch {
	case e.badName:
		m.fault("field name")
	case e.badValue:
		m.fault("field value")
	case e.name[0] == ':':
		m.pseudo(e.name, e.value)
	case m.trailer && !header.MayTrail(e.name):
		m.fault("field that may not be a trailer")
	case m.trailer:
		m.h.Fields.Add(e.name, e.value)
	default:
		m.regular = true
		m.ordinary(e.name, e.value)
	}
}

func (m *message) pseudo(name, value string) {
	if m.trailer || m.regular {
		m.fault("pseudo field out of place")
		return
	}
	var bit pseudo
	h := m.h
	switch {
	case !m.request && name == ":status":
		bit = hasStatus
		h.Status = parseStatus(value)
	case !m.request:
	case name == ":method":
		bit = hasMethod
		h.Method = value
	case name == ":path":
		bit = hasPath
		h.Path, h.Target = value, value
	case name == ":scheme":
		bit = hasScheme
		h.Scheme = value
	case name == ":authority":
		bit = hasAuthority
		h.Host = value
	case name == ":protocol" && m.limits.ExtendedConnect:
		bit = hasProtocol
		h.Upgrade = value
	}
	if bit == 0 || m.has&bit != 0 {
		m.fault("pseudo field unknown or repeated")
	}
	m.has |= bit
}

// parseStatus returns 0 for what is no status. 101 does not exist in HTTP/2
// (RFC 9113 section 8.6).
func parseStatus(s string) int {
	if len(s) != 3 {
		return 0
	}
	n := 0
	for i := 0; i < 3; i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		n = n*10 + int(s[i]-'0')
	}
	if n < 100 || n == 101 {
		return 0
	}
	return n
}

func (m *message) ordinary(name, value string) {
	h := m.h
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		m.fault("connection-specific field")
		return
	case "te":
		if value != "trailers" {
			m.fault("te other than trailers")
		}
		h.Trailers = true
		return
	case "content-length":
		m.length(value)
		return
	case "host":
		if m.request {
			if m.hasHost && m.host != value {
				m.fault("host repeated")
			}
			m.host, m.hasHost = value, true
			return
		}
	case "expect":
		if m.request && strings.EqualFold(value, "100-continue") {
			h.Expect100 = true
			return
		}
	case "cookie":
		// One field again, as others than HTTP/2 need it (RFC 9113 section 8.2.3).
		if m.cookie > 0 {
			f := &h.Fields.Fields[m.cookie-1]
			f.Value = m.a.join(f.Value, "; ", value)
			return
		}
		m.cookie = len(h.Fields.Fields) + 1
	}
	h.Fields.Add(name, value)
}

func (m *message) length(value string) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 || value[0] == '+' || m.h.HasLength && m.h.Length != n {
		m.fault("content-length")
		return
	}
	m.h.Length, m.h.HasLength = n, true
}

// finish judges the whole and settles the framing. end: no body follows;
// method is that of the request a response answers.
func (m *message) finish(end bool, method string) {
	h := m.h
	if m.trailer {
		return
	}
	h.KeepAlive = true
	if m.count > m.limits.MaxFields+6 || len(h.Fields.Fields) > m.limits.MaxFields {
		m.tooLarge = true
	}
	if m.request {
		m.checkRequest()
	} else if h.Status == 0 {
		m.fault(":status")
	}
	bodyless := !m.request && (method == "HEAD" || h.Status < 200 || h.Status == 204 || h.Status == 304)
	switch {
	case end || bodyless:
		h.Framing = header.NoBody
	case h.HasLength:
		h.Framing = header.Length
	default:
		h.Framing = header.Open
	}
	if end && !bodyless && h.HasLength && h.Length > 0 {
		m.fault("content-length without a body")
	}
}

// checkRequest is RFC 9113 sections 8.3.1 and 8.5, and RFC 8441 section 4.
func (m *message) checkRequest() {
	h := m.h
	connect := h.Method == "CONNECT"
	switch {
	case m.has&hasMethod == 0 || !validMethod(h.Method):
		m.fault(":method")
	case connect && m.has&hasProtocol == 0:
		if m.has&(hasScheme|hasPath) != 0 || h.Host == "" {
			m.fault("CONNECT with :scheme or :path, or without :authority")
		}
	case !connect && m.has&hasProtocol != 0:
		m.fault(":protocol without CONNECT")
	case m.has&hasScheme == 0 || !validScheme(h.Scheme):
		m.fault(":scheme")
	case m.has&hasPath == 0 || !validPath(h.Path, h.Method):
		m.fault(":path")
	case connect && (h.Host == "" || h.Upgrade == ""):
		m.fault("extended CONNECT without :authority or :protocol")
	}
	switch {
	case !validAuthority(h.Host) || !validAuthority(m.host):
		m.fault(":authority")
	case !m.hasHost:
	case m.has&hasAuthority == 0:
		h.Host = m.host
	case !strings.EqualFold(h.Host, m.host):
		m.fault(":authority and host disagree")
	}
}
