package proxy

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/h1"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

const (
	defaultIdle   = time.Hour        // connection without a request (Envoy)
	headTimeout   = 30 * time.Second // the rest of a head that came in pieces
	streamIdle    = 5 * time.Minute  // a body or response that stands still (Envoy)
	deadlineSlack = 30 * time.Second // how stale an armed deadline may be before it is renewed
)

// http1Conn serves HTTP/1.1 on one downstream connection and is the caller of
// its exchange. Everything in it belongs to the serving goroutine and is reused
// from request to request, so that a request in the steady state allocates
// nothing.
type http1Conn struct {
	*downstream
	*h1.Reader
	w             h1.Writer
	readDeadline  time.Time
	writeDeadline time.Time
	woken         atomic.Bool // no wait for the body until rearm
	severed       bool        // the close is to be a reset
	x             exchange
	resting       *resting // set when the connection is to go on as that
}

var _ caller = (*http1Conn)(nil)

func newHTTP1Conn(d *downstream) *http1Conn {
	c := &http1Conn{downstream: d, Reader: h1.NewReader(d.conn)}
	c.w = h1.NewWriter(c)
	c.OnPartial = func() { c.readBy(time.Now().Add(headTimeout), 0) }
	c.x.d, c.x.c = d, c
	return c
}

// serve handles one request after the other until either side ends it.
func (c *http1Conn) serve() (idle *resting) {
	for c.next() {
		if !c.x.handle() {
			if c.x.replied && !c.Complete() {
				c.linger()
			}
			break
		}
	}
	if c.resting != nil {
		c.Release()
		return c.resting
	}
	c.conn.Close() // with TLS: says close_notify first
	return nil
}

// next waits for a request head and puts the exchange in its starting state.
func (c *http1Conn) next() bool {
	if !c.enterIdle() {
		return false
	}
	if c.mayRest() {
		c.readBy(time.Now().Add(c.p.opts.RestAfter), c.p.opts.RestAfter/2)
	} else {
		c.readBy(time.Now().Add(c.idleTimeout()), min(deadlineSlack, c.idleTimeout()/8))
	}
	c.x.reset()
	err := c.ReadRequest(&c.x.req)
	if err != nil && c.rests(err) {
		return false
	}
	if !c.leaveIdle() {
		return false
	}
	if err == nil {
		if !c.follow() {
			return false
		}
		c.x.begin()
		return true
	}
	c.x.begin()
	var protocol *h1.Error
	switch {
	case errors.As(err, &protocol):
		c.x.refuseProtocol(protocol)
		c.linger()
	case errors.Is(err, os.ErrDeadlineExceeded) && c.Buffered() > 0:
		c.x.refuseProtocol(&h1.Error{Status: 408, Detail: "request_header_timeout"})
	}
	return false
}

// idleTimeout bounds a connection without a request.
func (d *downstream) idleTimeout() time.Duration {
	if t := d.chain.HTTP.IdleTimeout.D(); t > 0 {
		return t
	}
	return defaultIdle
}

// readBy and writeBy arm a deadline unless the one that is armed lies within
// slack of it: moving a timer costs more than looking at it.
func (c *http1Conn) readBy(t time.Time, slack time.Duration) {
	if d := t.Sub(c.readDeadline); d >= 0 && d <= slack {
		return
	}
	c.readDeadline = t
	c.conn.SetReadDeadline(t)
	if c.woken.Load() { // wake came first, or between the two: its deadline stays
		c.conn.SetReadDeadline(past)
	}
}

func (c *http1Conn) writeBy(t time.Time, slack time.Duration) {
	if d := t.Sub(c.writeDeadline); d >= 0 && d <= slack {
		return
	}
	c.writeDeadline = t
	c.raw.SetWriteDeadline(t)
}

// Write sends downstream; the codec's writer calls it with what has gathered.
func (c *http1Conn) Write(b []byte) (int, error) {
	c.writeBy(time.Now().Add(streamIdle), deadlineSlack)
	return c.conn.Write(b)
}

func (c *http1Conn) proceed() error {
	c.w.Continue()
	return c.w.Flush()
}

func (c *http1Conn) head(h *header.Head, end bool) error {
	old := c.x.req.HTTP10
	if old && h.Framing == header.Open { // it does not know chunks
		if end {
			h.Framing = header.NoBody
		} else {
			c.x.keepAlive = false // the end of the connection is the end
		}
	}
	if c.isClosing() {
		c.x.keepAlive = false
	}
	h.KeepAlive = c.x.keepAlive
	c.w.Response(h, c.x.req.Method, old, end)
	return nil
}

func (c *http1Conn) data(b []byte, end bool) error { return c.w.Data(b, end) }

func (c *http1Conn) end(trailers []header.Field) error {
	c.w.Trailers(trailers)
	return nil
}

func (c *http1Conn) flush() error { return c.w.Flush() }

// cut makes the close a reset: nothing else tells an HTTP/1.1 caller that the
// response is not whole.
func (c *http1Conn) cut() {
	c.severed = true
	c.reset()
}

func (c *http1Conn) gone() bool { return c.closedByPeer() }

func (c *http1Conn) leaving() bool { return c.isClosed() }

// watch names the carrier that abort ends. A caller that leaves by itself is
// found out by looking at gone once in a while.
func (c *http1Conn) watch(up upstream.Carrier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = up
	if up != nil && c.closed {
		up.Abort()
	}
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

func (c *http1Conn) wake() {
	c.woken.Store(true)
	c.conn.SetReadDeadline(past)
}

func (c *http1Conn) rearm() {
	c.woken.Store(false)
	c.readDeadline = time.Time{}
	c.conn.SetReadDeadline(time.Time{})
}

func (c *http1Conn) drains() bool { return c.isClosing() }

// hijack returns the connection with the bytes that came behind the request.
func (c *http1Conn) hijack() net.Conn {
	c.conn.SetDeadline(time.Time{})
	if early := c.Take(); len(early) > 0 {
		return &putBack{Conn: c.conn, head: early}
	}
	return c.conn
}

func (c *http1Conn) protocol() string {
	if c.x.req.HTTP10 {
		return telemetry.HTTP10
	}
	return telemetry.HTTP11
}
