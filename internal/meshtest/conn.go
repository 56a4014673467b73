package meshtest

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// streamBuffer is how many bytes a direction holds before writers wait, about
// what Linux's sockets hold.
const streamBuffer = 256 << 10

// link is one TCP connection: two streams under one lock. Everything that
// waits waits on cond, so that a testing/synctest bubble sees it as blocked.
type link struct {
	mu      sync.Mutex
	cond    *sync.Cond
	latency func() time.Duration // one way, now
	ends    [2]*conn
}

// conn is one end of a link. All methods may be called from any goroutine.
type conn struct {
	link          *link
	peer          *conn
	local, remote netip.AddrPort
	original      netip.AddrPort // where the connection was going before redirection; zero if it was not redirected

	// Guarded by link.mu.
	in            []segment // what the peer sent and we have not read
	size          int       // bytes in it
	end           time.Time // when the peer's half-close arrives; zero: it has not closed
	aborted       bool      // RST received
	shut          bool      // our own half-close
	closed        bool
	linger        bool // the next Close sends RST
	readBy, sndBy time.Time
	timers        [2]*time.Timer
}

// segment is data that arrives at a time.
type segment struct {
	data []byte
	at   time.Time
}

// newLink makes a connection; a is the caller's end.
func newLink(from, to, original netip.AddrPort, latency func() time.Duration) (a, b *conn) {
	l := &link{latency: latency}
	l.cond = sync.NewCond(&l.mu)
	a = &conn{link: l, local: from, remote: to}
	b = &conn{link: l, local: to, remote: from, original: original}
	a.peer, b.peer = b, a
	l.ends = [2]*conn{a, b}
	return a, b
}

func opError(op string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, errno)}
}

// Read returns what has arrived, in order: data, then a reset or the end.
func (c *conn) Read(b []byte) (int, error) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case !c.readBy.IsZero() && !now.Before(c.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(c.in) > 0 && !c.in[0].at.After(now):
			n := copy(b, c.in[0].data)
			if c.in[0].data = c.in[0].data[n:]; len(c.in[0].data) == 0 {
				c.in = c.in[1:]
			}
			c.size -= n
			c.link.cond.Broadcast()
			return n, nil
		case c.aborted:
			return 0, opError("read", syscall.ECONNRESET)
		case len(c.in) == 0 && !c.end.IsZero() && !c.end.After(now):
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		c.link.cond.Wait()
	}
}

// Write queues b for the peer. As in TCP the first write to a peer that has
// closed succeeds and is answered with RST.
func (c *conn) Write(b []byte) (int, error) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	written := 0
	for len(b) > 0 {
		p := c.peer
		switch {
		case c.closed:
			return written, net.ErrClosed
		case c.shut, c.aborted:
			return written, opError("write", syscall.EPIPE)
		case !c.sndBy.IsZero() && !time.Now().Before(c.sndBy):
			return written, os.ErrDeadlineExceeded
		case p.closed:
			c.aborted = true
			c.link.cond.Broadcast()
			return written + len(b), nil
		case p.size < streamBuffer:
			n := min(len(b), streamBuffer-p.size)
			p.in = append(p.in, segment{append([]byte(nil), b[:n]...), time.Now().Add(c.link.latency())})
			p.size += n
			b, written = b[n:], written+n
			c.link.announce()
			continue
		}
		c.link.cond.Wait()
	}
	return written, nil
}

// announce wakes readers now, and again when what was sent arrives.
func (l *link) announce() {
	l.cond.Broadcast()
	if d := l.latency(); d > 0 {
		time.AfterFunc(d, l.wake)
	}
}

func (l *link) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cond.Broadcast()
}

// Close ends the connection; with unread data or a zero linger the peer sees a
// reset, as in TCP.
func (c *conn) Close() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	for i := range c.timers {
		c.stopTimer(i)
	}
	if c.linger || len(c.in) > 0 {
		c.peer.aborted = true
	}
	if c.peer.end.IsZero() {
		c.peer.end = time.Now().Add(c.link.latency())
	}
	c.in = nil
	c.link.announce()
	return nil
}

// CloseWrite half-closes.
func (c *conn) CloseWrite() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if !c.shut {
		c.shut = true
		c.peer.end = time.Now().Add(c.link.latency())
		c.link.announce()
	}
	return nil
}

// SetLinger with 0 makes Close send a reset, as *net.TCPConn's.
func (c *conn) SetLinger(sec int) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.linger = sec == 0
	return nil
}

// PeerClosed reports whether the peer has closed its side (POLLRDHUP), or the
// connection is closed altogether.
func (c *conn) PeerClosed() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.closed || c.aborted || !c.end.IsZero() && !c.end.After(time.Now())
}

// Readable reports whether a read would not wait.
func (c *conn) Readable() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	now := time.Now()
	return c.closed || c.aborted || len(c.in) > 0 && !c.in[0].at.After(now) || !c.end.IsZero() && !c.end.After(now)
}

func (c *conn) stopTimer(i int) {
	if c.timers[i] != nil {
		c.timers[i].Stop()
		c.timers[i] = nil
	}
}

// arm replaces one deadline. The lock is held.
func (c *conn) arm(i int, field *time.Time, t time.Time) {
	*field = t
	c.stopTimer(i)
	if d := time.Until(t); !t.IsZero() && d > 0 && !c.closed {
		c.timers[i] = time.AfterFunc(d, c.link.wake)
	}
	c.link.cond.Broadcast()
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.arm(0, &c.readBy, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.arm(1, &c.sndBy, t)
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }
