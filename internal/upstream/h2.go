package upstream

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// h2Conn is one HTTP/2 connection to a host, shared by requests.
type h2Conn struct {
	*h2.Conn
	raw  *Conn // holds the connection's place in the cluster's count
	host *Host

	// guarded by host.mu
	opened  uint32 // streams so far
	retired bool   // takes no further stream; closes with its last one
	free    []*Stream
}

// Stream is one request on an HTTP/2 connection.
type Stream struct {
	*h2.Stream
	conn  *h2Conn
	first bool
}

var _ Carrier = (*Stream)(nil)

// Protocol implements Carrier.
func (s *Stream) Protocol() string { return telemetry.HTTP2 }

// WriteHead implements Carrier. An upgrade waits for the peer's SETTINGS, which
// say whether it accepts one (RFC 8441 section 3), until the connect timeout:
// ErrUnsettled.
func (s *Stream) WriteHead(h *header.Head, end bool) error {
	if h.Upgrade != "" {
		timer := time.NewTimer(s.conn.host.cluster.connectTimeout())
		defer timer.Stop()
		select {
		case <-s.Stream.Conn().Settled():
		case <-timer.C:
			return ErrUnsettled
		}
		return s.Stream.WriteHead(h, false)
	}
	return s.Stream.WriteHead(h, end)
}

// LocalAddr implements Carrier.
func (s *Stream) LocalAddr() net.Addr { return s.conn.raw.LocalAddr() }

// LocalText implements Carrier.
func (s *Stream) LocalText() string { return s.conn.raw.local }

// Reused implements Carrier.
func (s *Stream) Reused() bool { return !s.first }

// First implements Carrier.
func (s *Stream) First() bool { return s.first }

// Secure implements Carrier.
func (s *Stream) Secure() bool { return s.conn.raw.Secure() }

// Abort implements Carrier.
func (s *Stream) Abort() { s.Stream.Reset(h2.Cancel) }

// Hijack implements Carrier.
func (s *Stream) Hijack() net.Conn { return s.Stream.NetConn() }

// Release implements Carrier.
func (s *Stream) Release(now time.Time) {
	c, h := s.conn, s.conn.host
	s.Stream.Close()
	h.mu.Lock()
	*s = Stream{}
	c.free = append(c.free, s)
	c.retireLocked()
	idle, over := c.ActiveStreams() == 0, false
	if idle {
		c.raw.idleSince, over = now, c.retired
	}
	h.mu.Unlock()
	switch {
	case over:
		c.Conn.Close()
	case idle:
		h.cluster.scheduleSweep(h.cluster.idleTimeout())
	}
	h.cluster.wakeHost(h, grant{})
}

// Close implements Carrier: what is unfinished is reset.
func (s *Stream) Close() error {
	s.Release(time.Now())
	return nil
}

// retireLocked decides whether the connection has lived long enough.
func (c *h2Conn) retireLocked() {
	conf := c.host.cluster.conf.Load()
	limit, age := conf.HTTP.MaxRequestsPerConn, conf.HTTP.MaxConnectionDuration.D()
	if limit > 0 && c.opened >= limit || age > 0 && time.Since(c.raw.created) >= age || c.host.removed.Load() {
		c.retired = true
	}
}

// open opens a stream on the least busy connection that takes one. A choked
// connection is the last resort, if a further one may not be opened.
func (h *Host) open(lastResort bool) *Stream {
	s, aged := h.choose(lastResort)
	for _, c := range aged {
		c.Conn.Close()
	}
	return s
}

// choose does that, and returns the connections that have grown too old while
// they stood idle: they are to be closed, and make room for others.
func (h *Host) choose(lastResort bool) (s *Stream, aged []*h2Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var best *h2Conn
	limit := int(h.cluster.conf.Load().HTTP.MaxConcurrentStreams)
	for _, c := range h.shared {
		c.retireLocked()
		active := c.ActiveStreams()
		if c.retired && active == 0 {
			aged = append(aged, c)
		}
		if c.retired || limit > 0 && active >= limit || !c.CanOpen() || !lastResort && c.Choked() {
			continue
		}
		if best == nil || active < best.ActiveStreams() {
			best = c
		}
	}
	if best != nil {
		s, _ = best.takeLocked() // else it went away just now
	}
	return s, aged
}

// takeLocked opens a stream on the connection.
func (c *h2Conn) takeLocked() (s *Stream, err error) {
	stream, err := c.Conn.Open()
	if err != nil {
		return nil, err
	}
	c.opened++
	c.raw.idleSince = time.Time{}
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	} else {
		s = &Stream{}
	}
	*s = Stream{Stream: stream, conn: c, first: c.opened == 1}
	return s, nil
}

// acquireStream is Acquire for HTTP/2: a stream of a connection that has room,
// else of a new connection that one request dials and the others wait for.
func (c *Cluster) acquireStream(h *Host, want Want) (Carrier, error) {
	try := func() (Carrier, error) {
		if s := h.open(false); s != nil {
			return s, nil
		}
		if h.onlyHTTP1.Load() { // found out while we waited
			want.Fresh, want.Check = false, true
			return c.acquireConn(h, want)
		}
		if !h.beginDial() {
			return nil, nil
		}
		if !c.claim(h) {
			h.endDial()
			if s := h.open(true); s != nil {
				return s, nil
			}
			return nil, nil
		}
		carrier, err := c.dialShared(h, want.Deadline)
		h.endDial()
		c.wakeHost(h, grant{err: err})
		return carrier, err
	}
	if carrier, err := try(); carrier != nil || err != nil {
		return carrier, err
	}
	return c.wait(&waiter{host: h}, want, try)
}

// beginDial makes one request at a time dial the host; endDial ends it.
func (h *Host) beginDial() bool { return h.dialing.CompareAndSwap(false, true) }
func (h *Host) endDial()        { h.dialing.Store(false) }

// dialShared opens a claimed connection for HTTP/2. A host that insists on
// HTTP/1.1 gets it, now and later.
func (c *Cluster) dialShared(h *Host, deadline time.Time) (Carrier, error) {
	conn, err := c.dial(h, deadline, true)
	if err != nil {
		return nil, err
	}
	if p := conn.negotiated(); p == "http/1.1" || p == "istio-http/1.1" {
		h.onlyHTTP1.Store(true)
		return conn, nil
	}
	shared := &h2Conn{raw: conn, host: h}
	shared.Conn = h2.NewConn(conn.Conn, c.h2Options())
	// The stream is opened before anything is read: where the peer resets the
	// connection at once, the request that dialled it learns of the reset. It is
	// that request's even if the host has left meanwhile.
	h.mu.Lock()
	h.shared = append(h.shared, shared)
	s, err := shared.takeLocked()
	h.mu.Unlock()
	go shared.serve()
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c *Cluster) h2Options() h2.Options {
	k := c.conf.Load().HTTP.HTTP2KeepAlive
	if k == nil {
		return h2.Options{}
	}
	return h2.Options{PingInterval: k.Interval.D(), PingTimeout: k.Timeout.D()}
}

// serve reads the connection until it ends and takes it out of the pool.
func (c *h2Conn) serve() {
	_ = c.Conn.Serve() // each stream carries the reason to its request
	h := c.host
	h.mu.Lock()
	c.retired = true
	h.shared = slices.DeleteFunc(h.shared, func(x *h2Conn) bool { return x == c })
	h.mu.Unlock()
	c.raw.Close()
}

// negotiated is the TLS application protocol, "" for none.
func (c *Conn) negotiated() string {
	if s := c.TLS(); s != nil {
		return s.NegotiatedProtocol
	}
	return ""
}

// closeShared closes the HTTP/2 connections that match and have no stream, and
// retires those that have.
func (h *Host) closeShared(match func(*Conn) bool) {
	h.mu.Lock()
	var idle []*h2Conn
	for _, c := range h.shared {
		if match(c.raw) {
			c.retired = true
			if c.ActiveStreams() == 0 {
				idle = append(idle, c)
			}
		}
	}
	h.mu.Unlock()
	for _, c := range idle {
		c.Conn.Close()
	}
}

// hasShared reports whether an HTTP/2 connection is open.
func (h *Host) hasShared() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.shared) > 0
}

// dialContext is the context of one dial.
func (c *Cluster) dialContext(deadline time.Time) (context.Context, context.CancelFunc) {
	limit := time.Now().Add(c.connectTimeout())
	if !deadline.IsZero() && deadline.Before(limit) {
		limit = deadline
	}
	return context.WithDeadline(context.Background(), limit)
}
