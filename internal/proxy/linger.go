package proxy

import (
	"crypto/tls"
	"io"
	"time"
)

// lingerTime is how long a caller that still sends has to read its response
// and to close (Envoy's delayed_close_timeout).
const lingerTime = time.Second

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
	c.raw.SetReadDeadline(time.Now().Add(lingerTime))
	io.Copy(io.Discard, c.raw)
}
