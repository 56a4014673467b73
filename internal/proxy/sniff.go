package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

const (
	sniffBuffer         = 16<<10 + 5 // one TLS record
	defaultSniffTimeout = 15 * time.Second
)

// hello is what the first bytes of a connection tell.
type hello struct {
	transport  string // ir.TransportTLS or ir.TransportRaw
	serverName string
	alpn       []string // TLS ALPN, or "http/1.0" / "http/1.1" / "h2c" on cleartext
}

// inspect reads ahead as the listener asks and puts the bytes back. false: the
// connection is over (and recorded).
func (d *downstream) inspect(l *listener) (hello, bool) {
	h := hello{transport: ir.TransportRaw}
	if !l.InspectTLS && !l.InspectHTTP {
		return h, true
	}
	timeout := l.InspectTimeout.D()
	if timeout == 0 {
		timeout = defaultSniffTimeout
	}
	d.raw.SetReadDeadline(time.Now().Add(timeout))
	defer d.raw.SetReadDeadline(time.Time{})
	buf := make([]byte, 0, 1024)
	for {
		state := sniffing(buf, l, &h)
		if state == decided {
			break
		}
		if len(buf) >= sniffBuffer {
			break // whatever it is, it is not something we recognize
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 4*cap(buf)), buf...)
		}
		// A caller that has said nothing yet is idle: a drain need not wait for it.
		if len(buf) == 0 && !d.enterIdle() {
			return h, false
		}
		n, err := d.raw.Read(buf[len(buf):min(cap(buf), sniffBuffer)])
		if len(buf) == 0 && !d.leaveIdle() {
			return h, false
		}
		buf = buf[:len(buf)+n]
		if err == nil {
			continue
		}
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() && l.ContinueOnInspectTimeout {
			break
		}
		if n == 0 && len(buf) == 0 {
			return h, false // closed without a word: a port scan or a TCP probe
		}
		if len(buf) > 0 && state == undecided {
			break // it ended early; let the protocol say what is wrong
		}
		d.refuse(telemetry.DownstreamProtocolError, "listener_filter_timeout")
		return h, false
	}
	if len(buf) > 0 {
		d.conn = &putBack{Conn: d.raw, head: buf}
	}
	return h, true
}

// putBack is a connection whose first bytes have been read already.
type putBack struct {
	net.Conn
	head []byte
}

func (p *putBack) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		if p.head = p.head[n:]; len(p.head) == 0 {
			p.head = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// NetConn is the connection below.
func (p *putBack) NetConn() net.Conn { return p.Conn }

// CloseWrite half-closes.
func (p *putBack) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return p.Conn.Close()
}

type sniffState int

const (
	undecided sniffState = iota // more bytes wanted
	decided
)

// sniffing looks at what has been read so far.
func sniffing(b []byte, l *listener, h *hello) sniffState {
	if len(b) == 0 {
		return undecided
	}
	if l.InspectTLS && b[0] == 22 {
		done, ok := parseClientHello(b, h)
		if ok {
			h.transport = ir.TransportTLS
		}
		if done {
			return decided
		}
		return undecided
	}
	if !l.InspectHTTP {
		return decided
	}
	return sniffHTTP(b, h)
}

var h2Preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// sniffHTTP recognizes a request line, as Envoy's http_inspector does: a
// token, a blank, and HTTP/1.x at the end of the first line.
func sniffHTTP(b []byte, h *hello) sniffState {
	if n := min(len(b), len(h2Preface)); bytes.Equal(b[:n], h2Preface[:n]) {
		if n < len(h2Preface) {
			return undecided
		}
		h.alpn = []string{"h2c"}
		return decided
	}
	for i, c := range b {
		if c == ' ' && i > 0 {
			break
		}
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && c != '-' && c != '_' || i >= 32 {
			return decided // not a method
		}
	}
	eol := bytes.IndexByte(b, '\n')
	if eol < 0 {
		if len(b) >= sniffBuffer {
			return decided
		}
		return undecided
	}
	line := bytes.TrimRight(b[:eol], "\r")
	for _, version := range []string{"http/1.1", "http/1.0"} {
		if bytes.HasSuffix(line, []byte(" "+strings.ToUpper(version))) {
			h.alpn = []string{version}
		}
	}
	return decided
}

// parseClientHello takes SNI and ALPN out of a TLS ClientHello (RFC 8446
// section 4.1.2). done: enough bytes were there to decide; ok: it is one.
// Every length is checked against what contains it.
func parseClientHello(b []byte, h *hello) (done, ok bool) {
	if len(b) < 5 {
		return false, false
	}
	if b[1] != 3 {
		return true, false
	}
	record := int(binary.BigEndian.Uint16(b[3:5]))
	if record < 4 || record > 16<<10 {
		return true, false
	}
	if len(b) < 5+record {
		return false, false
	}
	msg := reader(b[5 : 5+record])
	if kind, _ := msg.take(1); len(kind) == 0 || kind[0] != 1 {
		return true, false
	}
	body, fine := msg.vector(3)
	if !fine {
		// A hello spread over several records is legal and not seen in practice
		// below 16 KB; it counts as TLS without names.
		return true, true
	}
	hello := reader(body)
	hello.take(2 + 32) // version, random
	hello.vector(1)    // session id
	hello.vector(2)    // cipher suites
	hello.vector(1)    // compression
	extensions, fine := hello.vector(2)
	if !fine {
		return true, true
	}
	for ext := reader(extensions); len(ext) > 0; {
		kind, ok := ext.take(2)
		data, ok2 := ext.vector(2)
		if !ok || !ok2 {
			break
		}
		switch binary.BigEndian.Uint16(kind) {
		case 0:
			h.serverName = sniName(data)
		case 16:
			h.alpn = alpnNames(data)
		}
	}
	return true, true
}

func sniName(data []byte) string {
	r := reader(data)
	list, ok := r.vector(2)
	if !ok {
		return ""
	}
	for r = reader(list); len(r) > 0; {
		kind, ok := r.take(1)
		name, ok2 := r.vector(2)
		if !ok || !ok2 {
			return ""
		}
		if kind[0] == 0 && len(name) <= 255 {
			return string(bytes.ToLower(name))
		}
	}
	return ""
}

func alpnNames(data []byte) []string {
	r := reader(data)
	list, ok := r.vector(2)
	if !ok {
		return nil
	}
	var names []string
	for r = reader(list); len(r) > 0 && len(names) < 32; {
		name, ok := r.vector(1)
		if !ok {
			return nil
		}
		names = append(names, string(name))
	}
	return names
}

// reader consumes TLS presentation language from the front of a slice.
type reader []byte

func (r *reader) take(n int) ([]byte, bool) {
	if len(*r) < n {
		*r = nil
		return nil, false
	}
	b := (*r)[:n]
	*r = (*r)[n:]
	return b, true
}

// vector takes a length of that many bytes, then as many bytes as it says.
func (r *reader) vector(lengthBytes int) ([]byte, bool) {
	b, ok := r.take(lengthBytes)
	if !ok {
		return nil, false
	}
	n := 0
	for _, c := range b {
		n = n<<8 | int(c)
	}
	return r.take(n)
}
