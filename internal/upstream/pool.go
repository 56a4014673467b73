package upstream

import (
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Errors of Acquire. Everything else it returns is a connection failure.
var (
	ErrOverflow = errors.New("circuit breaker overflow")
	ErrDeadline = errors.New("no connection came free before the deadline")
	ErrGone     = errors.New("the caller left before a connection came free")
)

// ErrUnsettled is returned for an upgrade on an HTTP/2 connection whose peer has
// not sent its SETTINGS within the connect timeout; nothing was written.
var ErrUnsettled = errors.New("no SETTINGS before the connect timeout")

// staleAfter: a pooled connection idle for longer is asked whether the peer
// has closed it before it is used again.
const staleAfter = 10 * time.Millisecond

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

// Want is what a request asks of Acquire.
type Want struct {
	Deadline time.Time // of the request; zero: none
	HTTP2    bool      // the request came with it, for clusters that follow that
	Fresh    bool      // a new connection; HTTP/1.1 only
	// Check makes sure that a pooled connection is still open even if it was
	// used a moment ago, for requests that must not be sent twice.
	Check  bool
	Caller Caller // nil: nobody who may leave
}

// Caller is who waits for a connection. It is asked by the goroutine that calls
// Acquire.
type Caller interface{ Gone() bool }

// Acquire returns a carrier to the host. An attempt to connect is bounded by the
// connect timeout and the deadline, the wait in the pending queue, where the
// connection limit requires it, by the deadline and the caller's patience.
func (c *Cluster) Acquire(h *Host, want Want) (Carrier, error) {
	http2 := want.HTTP2
	switch c.conf.Load().HTTP.Protocol {
	case ir.DownstreamProtocol:
	case ir.HTTP2:
		http2 = true
	default:
		http2 = false
	}
	if http2 && !h.onlyHTTP1.Load() {
		return c.acquireStream(h, want)
	}
	return c.acquireConn(h, want)
}

func (c *Cluster) acquireConn(h *Host, want Want) (Carrier, error) {
	if !want.Fresh {
		if conn := c.pooled(h, time.Now(), want.Check); conn != nil {
			return conn, nil
		}
	}
	if c.claim(h) {
		return carrier(c.dial(h, want.Deadline, false))
	}
	return c.wait(&waiter{host: h, takes: true}, want, func() (Carrier, error) {
		// A connection may have come free between the last look and now.
		if conn := c.pooled(h, time.Now(), true); conn != nil {
			return conn, nil
		}
		if c.claim(h) {
			return carrier(c.dial(h, want.Deadline, false))
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

// pooled returns a live idle connection, closing the dead and the old it finds.
func (c *Cluster) pooled(h *Host, now time.Time, check bool) *Conn {
	for {
		conn := h.popIdle()
		if conn == nil {
			return nil
		}
		if idle := now.Sub(conn.idleSince); (check || idle >= staleAfter) && (conn.aged(now) || conn.dead()) {
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
