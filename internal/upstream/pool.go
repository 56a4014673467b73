package upstream

import (
	"context"
	"errors"
	"time"
)

// Errors of Acquire. Everything else it returns is a connection failure.
var (
	ErrOverflow = errors.New("circuit breaker overflow")
	ErrDeadline = errors.New("no connection before the deadline")
)

// staleAfter: a pooled connection idle for longer is asked whether the peer
// has closed it before it is used again.
const staleAfter = 10 * time.Millisecond

type waiter struct {
	host *Host
	got  chan *Conn // capacity 1; nil means "look again"
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

// Acquire returns a connection to the host, pooled or new, waiting in the
// pending queue where the connection limit requires it. fresh asks for a new
// one. check makes sure that a pooled connection is still open even if it was
// used a moment ago (for requests that must not be sent twice). A zero
// deadline means the connect timeout only.
func (c *Cluster) Acquire(h *Host, deadline time.Time, fresh, check bool) (*Conn, error) {
	now := time.Now()
	if !fresh {
		if conn := c.pooled(h, now, check); conn != nil {
			return conn, nil
		}
	}
	if c.claim(h) {
		return c.dial(h, deadline)
	}
	return c.wait(h, deadline)
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

// wait queues for a connection.
func (c *Cluster) wait(h *Host, deadline time.Time) (*Conn, error) {
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
		w := &waiter{host: h, got: make(chan *Conn, 1)}
		c.mu.Lock()
		c.waiters = append(c.waiters, w)
		c.mu.Unlock()
		// A connection may have come free between the last look and now.
		if conn := c.pooled(h, time.Now(), true); conn != nil {
			c.leave(w)
			return conn, nil
		}
		if c.claim(h) {
			c.leave(w)
			return c.dial(h, deadline)
		}
		select {
		case conn := <-w.got:
			if conn != nil {
				conn.reused = true
				return conn, nil
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
	if conn := <-w.got; conn != nil {
		conn.Release(time.Now())
	} else {
		c.wakeOne(nil, nil)
	}
}

// wakeOne gives conn to the first waiter for that host and reports whether
// there was one; with a nil host it tells the first waiter to look again.
func (c *Cluster) wakeOne(h *Host, conn *Conn) bool {
	if c.pending.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.waiters {
		if h == nil || w.host == h {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			w.got <- conn
			return true
		}
	}
	return false
}

func (c *Cluster) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.waiters {
		w.got <- nil
	}
	c.waiters = nil
}

func (c *Cluster) connectTimeout() time.Duration {
	if d := c.conf.Load().ConnectTimeout.D(); d > 0 {
		return d
	}
	return defaultConnectTimeout
}

// dial opens a claimed connection.
func (c *Cluster) dial(h *Host, deadline time.Time) (*Conn, error) {
	limit := time.Now().Add(c.connectTimeout())
	if !deadline.IsZero() && deadline.Before(limit) {
		limit = deadline
	}
	ctx, cancel := context.WithDeadline(context.Background(), limit)
	defer cancel()
	conn, err := c.connect(ctx, h)
	if err != nil {
		c.unclaim(h)
		c.stats.connectFail.Add(1)
		return nil, err
	}
	c.stats.connections.Add(1)
	return conn, nil
}

// closeIdle closes idle connections that match.
func (c *Cluster) closeIdle(match func(*Conn) bool) {
	for _, h := range c.Hosts() {
		for _, conn := range h.takeIdle(match) {
			conn.Close()
		}
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
		c.closeIdle(func(conn *Conn) bool { return now.Sub(conn.idleSince) >= limit })
		c.mu.Lock()
		c.sweeper = nil
		c.mu.Unlock()
		if c.idle.Load() > 0 {
			c.scheduleSweep(limit)
		}
	})
}
