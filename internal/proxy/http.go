package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/h1"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

const (
	defaultIdle   = time.Hour        // connection without a request (Envoy)
	headTimeout   = 30 * time.Second // the rest of a head that came in pieces
	streamIdle    = 5 * time.Minute  // a body or response that stands still (Envoy)
	deadlineSlack = 30 * time.Second // how stale an armed deadline may be before it is renewed
)

// httpConn serves HTTP/1.1 on one downstream connection. Everything in it
// belongs to the serving goroutine and is reused from request to request, so
// that a request in the steady state allocates nothing.
type httpConn struct {
	*downstream
	reader        *h1.Reader
	out           []byte // what is about to be written downstream
	readDeadline  time.Time
	writeDeadline time.Time
	x             exchange
	series        *telemetry.Series // of the last request: usually of the next one too
	seriesKey     telemetry.SeriesKey
}

func newHTTPConn(d *downstream) *httpConn {
	c := &httpConn{downstream: d, reader: h1.NewReader(d.conn)}
	c.reader.OnPartial = func() { c.readBy(time.Now().Add(headTimeout), 0) }
	c.x.c = c
	return c
}

// serve handles one request after the other until either side ends it.
func (c *httpConn) serve() {
	for c.next() {
		if !c.x.handle() {
			break
		}
	}
	c.conn.Close() // with TLS: says close_notify first
}

// next waits for a request head and puts the exchange in its starting state.
func (c *httpConn) next() bool {
	if !c.enterIdle() {
		return false
	}
	idle := c.chain.HTTP.IdleTimeout.D()
	if idle == 0 {
		idle = defaultIdle
	}
	c.readBy(time.Now().Add(idle), min(deadlineSlack, idle/8))
	c.x.reset()
	err := c.reader.ReadRequest(&c.x.req)
	if !c.leaveIdle() {
		return false
	}
	c.x.begin()
	var protocol *h1.Error
	switch {
	case err == nil:
	case errors.As(err, &protocol):
		c.x.refuseProtocol(protocol)
		return false
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return false
	case errors.Is(err, os.ErrDeadlineExceeded) && c.reader.Buffered() > 0:
		c.x.refuseProtocol(&h1.Error{Status: 408, Detail: "request_header_timeout"})
		return false
	default:
		return false
	}
	return c.follow()
}

// follow takes up the configuration in force: one request sees one
// configuration from here to its end. false: the filter chain of this
// connection no longer exists, so the connection ends unanswered, as an idle
// one does.
func (c *httpConn) follow() bool {
	rt := c.p.runtime.Load()
	if rt == c.rt {
		return true
	}
	chain := rt.chainOf(c.chain)
	if chain == nil || chain.HTTP == nil {
		return false
	}
	c.rt, c.chain = rt, chain
	return true
}

// readBy and writeBy arm a deadline unless the one that is armed lies within
// slack of it: moving a timer costs more than looking at it.
func (c *httpConn) readBy(t time.Time, slack time.Duration) {
	if d := t.Sub(c.readDeadline); d >= 0 && d <= slack {
		return
	}
	c.readDeadline = t
	c.conn.SetReadDeadline(t)
}

func (c *httpConn) writeBy(t time.Time, slack time.Duration) {
	if d := t.Sub(c.writeDeadline); d >= 0 && d <= slack {
		return
	}
	c.writeDeadline = t
	c.raw.SetWriteDeadline(t)
}

// write sends b downstream.
func (c *httpConn) write(b []byte) error {
	c.writeBy(time.Now().Add(streamIdle), deadlineSlack)
	_, err := c.conn.Write(b)
	return err
}
