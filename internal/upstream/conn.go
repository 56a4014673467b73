package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/h1"
	"github.com/tulle-mesh/tulle/internal/wire"
)

// Conn is one connection to a host, held by one request at a time. Its holder
// may use every method; nobody else may.
type Conn struct {
	net.Conn
	*h1.Reader
	Host *Host

	local  string // local address, as the access log prints it
	reused bool   // it has carried a request before

	method string // of the request being carried
	w      h1.Writer

	raw       syscall.RawConn
	peek      func(fd uintptr) bool // allocated once
	alive     bool
	announced bool // it speaks for one downstream connection and is not pooled
	closed    bool
	torn      bool // a write failed
	created   time.Time
	idleSince time.Time
	carried   uint32
	era       uint32    // of the host, when the connection was made
	deadline  time.Time // of reads, set on the socket; zero for none
	writeBy   time.Time // of writes, likewise

	interrupted atomic.Bool // no wait until ClearReadBy
}

// HandshakeError is a failed TLS handshake with a host that did accept the
// connection.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return "TLS handshake: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *HandshakeError) Unwrap() error { return e.Err }

// connect dials and, where the host wants it, does the TLS handshake.
func (c *Cluster) connect(ctx context.Context, h *Host, http2 bool) (*Conn, error) {
	era, conf := h.era.Load(), c.conf.Load()
	d := net.Dialer{KeepAlive: -1, Control: c.control(conf)}
	network, address := "tcp", h.Address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	} else if conf.BindSource.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: conf.BindSource.AsSlice()}
	}
	raw, err := c.dialRaw(ctx, &d, network, address, conf.BindSource)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn := &Conn{Conn: wire.Wrap(raw), Host: h, local: raw.LocalAddr().String(), created: time.Now(), era: era}
	if sc, ok := raw.(syscall.Conn); ok {
		if conn.raw, err = sc.SyscallConn(); err != nil {
			raw.Close()
			return nil, err
		}
	}
	if err := announce(ctx, raw); err != nil {
		raw.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	tlsConf := conf.tls
	if tlsConf == nil && h.endpoint.Load().TLS {
		tlsConf = conf.autoTLS
	}
	if tlsConf != nil {
		tc := tls.Client(conn.Conn, h.resuming(tlsConf, http2))
		if err := tc.HandshakeContext(ctx); err != nil {
			raw.Close()
			if h.forgetSession(http2) { // it may have been the session that was refused
				return c.connect(ctx, h, http2)
			}
			c.set.peers.Count(err)
			return nil, &HandshakeError{err}
		}
		conn.Conn = tc
	}
	conn.Reader, conn.w = h1.NewReader(conn.Conn), h1.NewWriter(conn.Conn)
	conn.peek = conn.peekFD
	return conn, nil
}

// offering is conf with the application protocols that suit what will be
// spoken: an offer of both would leave the choice to the peer.
func offering(conf *tls.Config, http2 bool) *tls.Config {
	isHTTP2 := func(p string) bool { return p == "h2" || p == "istio-h2" }
	isHTTP1 := func(p string) bool { return strings.HasPrefix(p, "http/1") || strings.HasPrefix(p, "istio-http/1") }
	drop := isHTTP2
	if http2 {
		drop = isHTTP1
	}
	if !slices.ContainsFunc(conf.NextProtos, drop) {
		return conf
	}
	conf = conf.Clone()
	conf.NextProtos = slices.DeleteFunc(slices.Clone(conf.NextProtos), drop)
	return conf
}

// dialRaw opens the transport connection.
func (c *Cluster) dialRaw(ctx context.Context, d *net.Dialer, network, address string, bind netip.Addr) (net.Conn, error) {
	if c.set.opts.Dial != nil {
		return c.set.opts.Dial(ctx, address, bind)
	}
	return d.DialContext(ctx, network, address)
}

// control sets socket options before connecting.
func (c *Cluster) control(conf *config) func(network, address string, rc syscall.RawConn) error {
	return func(network, _ string, rc syscall.RawConn) error {
		if network == "unix" {
			return nil // the options are TCP's
		}
		var err error
		ctl := rc.Control(func(fd uintptr) {
			if c.set.opts.Mark != 0 {
				if err = setMark(int(fd), c.set.opts.Mark); err != nil {
					return
				}
			}
			if k := conf.TCPKeepalive; k != nil {
				err = setKeepalive(int(fd), k)
			}
		})
		if ctl != nil {
			return ctl
		}
		return err
	}
}

// dead asks the kernel whether the peer has closed, or sent something nobody
// asked for; either way the connection cannot carry a request.
func (c *Conn) dead() bool {
	if c.Reader.Buffered() > 0 {
		return true
	}
	if c.raw == nil {
		return readable(c.Conn)
	}
	c.alive = false
	if err := c.raw.Read(c.peek); err != nil {
		return true
	}
	return !c.alive
}

// readable asks a connection without kernel (see Options.Dial).
func readable(c net.Conn) bool {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	r, ok := c.(interface{ Readable() bool })
	return ok && r.Readable()
}

// TLS returns the connection's TLS state, nil on plaintext.
func (c *Conn) TLS() *tls.ConnectionState {
	if tc, ok := c.Conn.(*tls.Conn); ok {
		s := tc.ConnectionState()
		return &s
	}
	return nil
}

// SetReadBy arms the read deadline if it is not close enough already. Timers
// cost more than the check, so a deadline less than slack away from what is
// asked for stays.
func (c *Conn) SetReadBy(t time.Time, slack time.Duration) {
	if d := t.Sub(c.deadline); !c.deadline.IsZero() && d <= slack && d >= 0 {
		return
	}
	c.deadline = t
	c.Conn.SetReadDeadline(t)
	if c.interrupted.Load() { // before, or between the two: its deadline stays
		c.Conn.SetReadDeadline(past)
	}
}

// ClearReadBy forgets the armed deadline, after it has fired, and an Interrupt.
func (c *Conn) ClearReadBy() {
	c.deadline = time.Time{}
	c.interrupted.Store(false)
}

// Interrupt makes a Read that waits on the connection, and every later one until
// ClearReadBy, return now. Unlike the other methods it may be called while
// another goroutine reads.
func (c *Conn) Interrupt() {
	c.interrupted.Store(true)
	c.Conn.SetReadDeadline(past)
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// Secure reports whether the connection is encrypted.
func (c *Conn) Secure() bool {
	_, ok := c.Conn.(*tls.Conn)
	return ok
}

// Release gives the connection back after a complete exchange.
func (c *Conn) Release(now time.Time) {
	cl := c.Host.cluster
	conf := cl.conf.Load()
	if c.interrupted.Load() { // too late to matter
		c.ClearReadBy()
		c.Conn.SetReadDeadline(time.Time{})
	}
	c.carried++
	if limit := conf.HTTP.MaxRequestsPerConn; c.announced || limit > 0 && c.carried >= limit ||
		c.aged(now) || c.Host.removed.Load() || c.era != c.Host.era.Load() || c.torn || c.Reader.Buffered() > 0 {
		c.Close()
		return
	}
	if cl.wakeOne(c.Host, c) {
		return
	}
	c.Reader.Release()
	if c.Host.pushIdle(c, now) {
		cl.scheduleSweep(cl.idleTimeout())
	}
	cl.wakeOne(c.Host, nil) // who came to wait between the two did not find it
}

// aged reports whether the connection has lived as long as it may.
func (c *Conn) aged(now time.Time) bool {
	age := c.Host.cluster.conf.Load().HTTP.MaxConnectionDuration.D()
	return age > 0 && now.Sub(c.created) >= age
}

// Close closes the connection; it leaves the cluster's count.
func (c *Conn) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	err := c.Conn.Close()
	c.Host.cluster.unclaim(c.Host)
	return err
}

// First reports whether the connection has not carried a request yet.
func (c *Conn) First() bool { return c.carried == 0 }

// Begin and End bracket a request on the host, for least-request balancing.
func (h *Host) Begin() { h.active.Add(1) }

// End is Begin's reverse.
func (h *Host) End() { h.active.Add(-1) }
