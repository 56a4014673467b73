package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"time"
)

// A caller that still sends has lingerTime from one piece to the next (Envoy's
// delayed_close_timeout is that long), and lingerMost in all, to come to its
// response and to close.
const (
	lingerTime = time.Second
	lingerMost = 30 * time.Second
)

// linger ends the connection of a caller that was answered before its request's
// end. To close while it sends would be a reset, which takes along what it has
// not read of the response (RFC 9112 section 9.6).
func (c *http1Conn) linger() {
	half, ok := c.raw.(interface{ CloseWrite() error })
	if !ok || c.severed {
		return
	}
	if tc, ok := c.conn.(*tls.Conn); ok {
		tc.CloseWrite() // says close_notify
	}
	if half.CloseWrite() != nil {
		return
	}
	io.Copy(io.Discard, &leftover{c.raw, time.Now().Add(lingerMost)})
}

// leftover reads what nobody asks for, until end or a pause.
type leftover struct {
	net.Conn
	end time.Time
}

func (l *leftover) Read(b []byte) (int, error) {
	t := time.Now().Add(lingerTime)
	if l.end.Before(t) {
		t = l.end
	}
	l.SetReadDeadline(t)
	return l.Conn.Read(b)
}
