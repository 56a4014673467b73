package upstream

import (
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Errors of Acquire. Everything else it returns is a connection failure.
var (
	ErrOverflow = errors.New("circuit breaker overflow")
	ErrDeadline = errors.New("no connection before the deadline")
)

// ErrUnsettled is returned for an upgrade on an HTTP/2 connection whose peer has
// not sent its SETTINGS within the connect timeout; nothing was written.
var ErrUnsettled = errors.New("no SETTINGS before the connect timeout")

// staleAfter: a pooled connection idle for longer is asked whether the peer
// has closed it before it is used again.
const staleAfter = 10 * time.Millisecond

// waiter is a request in the pending queue.
type waiter struct {
	host  *Host
	takes bool       // an HTTP/1.1 connection can be handed to it
	got   chan grant // capacity 1
}

// grant ends a wait: with a connection, with the error of the dial it waited
// for, or with neither, which means "look again".
type grant struct {
	conn *Conn
	err  error
}

// BeginRequest takes one of the cluster's request slots (MaxRequests).
// EndRequest must follow when it returns true.
func (c *Cluster) BeginRequest() bool {
	conf := c.conf.Load()
	if n := c.requests.Add(1); n > int64(conf.Breaker.MaxRequests) {
		c.requests.Add(-1)
		c.stats.requestOverflow.Add(1)
		return false
	}
	if conf.recent != nil {
		conf.recent.add(conf.RetryBudget.Interval.D(), time.Now())
	}
	return true
}

// EndRequest gives the slot back.
func (c *Cluster) EndRequest() { c.requests.Add(-1) }

// BeginRetry takes a retry slot (MaxRetries); EndRetry must follow when it
// returns true.
func (c *Cluster) BeginRetry() bool {
	if n := c.retries.Add(1); n > c.retryLimit(c.conf.Load()) {
		c.retries.Add(-1)
		c.stats.retryOverflow.Add(1)
		return false
	}
	c.stats.retry.Add(1)
	return true
}

// EndRetry gives the slot back.
func (c *Cluster) EndRetry() { c.retries.Add(-1) }

// Acquire returns a carrier to the host, waiting in the pending queue where the
// connection limit requires it. http2 tells what the request came with, for
// clusters that follow it. fresh asks for a new HTTP/1.1 connection. check makes
// sure that a pooled one is still open even if it was used a moment ago (for
// requests that must not be sent twice). A zero deadline means the connect
// timeout only.
func (c *Cluster) Acquire(h *Host, deadline time.Time, http2, fresh, check bool) (Carrier, error) {
	switch c.conf.Load().HTTP.Protocol {
	case ir.DownstreamProtocol:
	case ir.HTTP2:
		http2 = true
	default:
		http2 = false
	}
	if http2 && !h.onlyHTTP1.Load() {
		return c.acquireStream(h, deadline)
	}
	return c.acquireConn(h, deadline, fresh, check)
}

func (c *Cluster) acquireConn(h *Host, deadline time.Time, fresh, check bool) (Carrier, error) {
	if !fresh {
		if conn := c.pooled(h, time.Now(), check); conn != nil {
			return conn, nil
		}
	}
	if c.claim(h) {
		return carrier(c.dial(h, deadline, false))
	}
	return c.wait(&waiter{host: h, takes: true}, deadline, func() (Carrier, error) {
		// A connection may have come free between the last look and now.
		if conn := c.pooled(h, time.Now(), true); conn != nil {
			return conn, nil
		}
		if c.claim(h) {
			return carrier(c.dial(h, deadline, false))
		}
		return nil, nil
	})
}

// carrier keeps a nil *Conn from becoming a Carrier that is not nil.
func carrier(c *Conn, err error) (Carrier, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// pooled returns a live idle connection, closing the dead it finds.
func (c *Cluster) pooled(h *Host, now time.Time, check bool) *Conn {
	for {
		conn := h.popIdle()
		if conn == nil {
			return nil
		}
		if idle := now.Sub(conn.idleSince); (check || idle >= staleAfter) && conn.dead() {
			conn.Close()
			continue
		}
		conn.reused = true
		return conn
	}
}

// claim counts a new connection if the limit allows it. As in Envoy every host
// may have one connection whatever the limit.
func (c *Cluster) claim(h *Host) bool {
	limit := int64(c.conf.Load().Breaker.MaxConnections)
	if n := c.connections.Add(1); n > limit && h.connections.Load() > 0 {
		c.connections.Add(-1)
		c.stats.connectionOverflow.Add(1)
		return false
	}
	h.connections.Add(1)
	return true
}

// unclaim is claim's reverse; somebody waiting may dial now.
func (c *Cluster) unclaim(h *Host) {
	h.connections.Add(-1)
	c.connections.Add(-1)
	c.wakeOne(nil, nil)
}

// wait queues until try succeeds or fails; try returns neither carrier nor
// error as long as there is nothing to be had.
func (c *Cluster) wait(w *waiter, deadline time.Time, try func() (Carrier, error)) (Carrier, error) {
	if n := c.pending.Add(1); n > int64(c.conf.Load().Breaker.MaxPendingRequests) {
		c.pending.Add(-1)
		c.stats.pendingOverflow.Add(1)
		return nil, ErrOverflow
	}
	defer c.pending.Add(-1)
	timeout := c.connectTimeout()
	if !deadline.IsZero() {
		timeout = time.Until(deadline)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		w.got = make(chan grant, 1)
		c.mu.Lock()
		c.waiters = append(c.waiters, w)
		c.mu.Unlock()
		if got, err := try(); got != nil || err != nil {
			c.leave(w)
			return got, err
		}
		select {
		case g := <-w.got:
			switch {
			case g.err != nil:
				return nil, g.err
			case g.conn != nil:
				g.conn.reused = true
				return g.conn, nil
			}
		case <-timer.C:
			c.leave(w)
			return nil, ErrDeadline
		}
	}
}

// leave takes the waiter off the queue and passes on what it was given.
func (c *Cluster) leave(w *waiter) {
	c.mu.Lock()
	for i, x := range c.waiters {
		if x == w {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			c.mu.Unlock()
			return
		}
	}
	c.mu.Unlock()
	if g := <-w.got; g.conn != nil {
		g.conn.Release(time.Now())
	} else {
		c.wakeOne(nil, nil)
	}
}

// wakeOne gives conn to the first waiter that can take it and reports whether
// there was one; with a nil host it tells the first waiter to look again.
func (c *Cluster) wakeOne(h *Host, conn *Conn) bool {
	if c.pending.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.waiters {
		if h == nil || w.host == h && w.takes {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			w.got <- grant{conn: conn}
			return true
		}
	}
	return false
}

// wakeHost tells everybody who waits for a stream of the host. One stream that
// came free wakes them all: they are few, and each looks again by itself.
func (c *Cluster) wakeHost(h *Host, g grant) {
	if c.pending.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.waiters[:0]
	for _, w := range c.waiters {
		if w.host == h && !w.takes {
			w.got <- g
		} else {
			kept = append(kept, w)
		}
	}
	clear(c.waiters[len(kept):])
	c.waiters = kept
}

func (c *Cluster) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.waiters {
		w.got <- grant{}
	}
	c.waiters = nil
}

func (c *Cluster) connectTimeout() time.Duration {
	if d := c.conf.Load().ConnectTimeout.D(); d > 0 {
		return d
	}
	return defaultConnectTimeout
}

// dial opens a claimed connection; http2 says what to offer.
func (c *Cluster) dial(h *Host, deadline time.Time, http2 bool) (*Conn, error) {
	ctx, cancel := c.dialContext(deadline)
	defer cancel()
	conn, err := c.connect(ctx, h, http2)
	if err != nil {
		c.unclaim(h)
		c.stats.connectFail.Add(1)
		return nil, err
	}
	c.stats.connections.Add(1)
	return conn, nil
}

// closeIdle closes idle connections that match. One whose idleSince is zero
// carries requests: it closes with the last of them.
func (c *Cluster) closeIdle(match func(*Conn) bool) {
	for _, h := range c.Hosts() {
		for _, conn := range h.takeIdle(match) {
			conn.Close()
		}
		h.closeShared(match)
	}
}

// scheduleSweep makes sure that idle connections are closed when their time
// is over; it keeps one timer per cluster, armed only while something idles.
func (c *Cluster) scheduleSweep(idle time.Duration) {
	if idle == 0 {
		return // for ever
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sweeper != nil || c.closed {
		return
	}
	c.sweeper = time.AfterFunc(idle+idle/16+time.Millisecond, func() {
		now := time.Now()
		limit := c.idleTimeout()
		oldest := now
		c.closeIdle(func(conn *Conn) bool {
			if conn.idleSince.IsZero() {
				return false
			}
			if now.Sub(conn.idleSince) >= limit {
				return true
			}
			if conn.idleSince.Before(oldest) {
				oldest = conn.idleSince
			}
			return false
		})
		busy := false
		for _, h := range c.Hosts() {
			busy = busy || h.hasShared()
		}
		c.mu.Lock()
		c.sweeper = nil
		c.mu.Unlock()
		if c.idle.Load() > 0 || busy {
			c.scheduleSweep(limit - now.Sub(oldest))
		}
	})
}
