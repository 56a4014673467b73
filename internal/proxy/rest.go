package proxy

import (
	"errors"
	"os"
	"time"
)

// restAfter is how long a keep-alive connection without a request keeps what it
// has grown: buffers, the exchange, a deep stack. After it the connection rests
// as a goroutine that waits in the poller and holds nothing; most of a mesh's
// connections do, most of the time.
const restAfter = 4 * time.Second

// resting is an HTTP/1.1 connection that stands idle.
type resting struct {
	*downstream
	until time.Time // the end of its idle timeout
}

// serve serves a connection, a new one or one that rested, until it ends or
// rests. What rests goes on in a goroutine of its own, which starts with a
// small stack.
func (p *Proxy) serve(d *downstream, rested *resting) {
	var idle *resting
	if rested == nil {
		idle = d.serve()
	} else {
		idle = rested.serve()
	}
	if idle != nil {
		p.stats.rests.Add(1)
		p.trim.rested()
		idle.raw.SetReadDeadline(idle.until) // here: on the small stack it would not fit, and one that has grown to 4 KB stays so
		go p.serve(d, idle)
		return
	}
	p.edges.close(d.edge)
	p.conns.remove(d)
}

// serve waits for the next request and serves on from there.
func (r *resting) serve() (idle *resting) {
	if err := r.wire.Await(); err != nil { // the idle timeout, or somebody closed it
		if !errors.Is(err, os.ErrDeadlineExceeded) || !r.leaveIdle() {
			r.raw.Close()
			return nil
		}
		r.conn.Close() // with TLS: says close_notify first
		return nil
	}
	return newHTTP1Conn(r.downstream).serve()
}

// mayRest: the connection can be waited on, and its idle timeout is far enough.
func (c *http1Conn) mayRest() bool {
	return c.wire != nil && c.Buffered() == 0 && c.idleTimeout() > 2*c.p.opts.RestAfter
}

// rests reports whether the wait for a request ended because the connection is
// to rest. It stays marked as idle.
func (c *http1Conn) rests(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.Buffered() > 0 || !c.mayRest() || c.isClosing() {
		return false
	}
	c.resting = &resting{c.downstream, time.Now().Add(c.idleTimeout() - c.p.opts.RestAfter)}
	return true
}
