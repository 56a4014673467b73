package upstream

import (
	"errors"
	"net"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
)

// Carrier carries one request to a host and its response back: an HTTP/1.1
// connection taken from the pool (*Conn) or a stream of an HTTP/2 connection
// (*Stream). Its holder may use every method; nobody else may, except for
// Interrupt and Abort.
//
// Writes are buffered until Flush. Errors of writing are kept apart from those
// of reading, because an upstream may answer before it has read everything.
type Carrier interface {
	WriteHead(h *header.Head, end bool) error  // end: no body follows
	WriteData(b []byte, end bool) error        // end: the body is through, without trailers
	WriteTrailers(fields []header.Field) error // ends the body
	Flush() error
	SetWriteBy(t time.Time)

	ReadHead(h *header.Head) error // interim responses (1xx) come out like any other
	Next() (b []byte, done bool, err error)
	Complete() bool
	ReadyNow() bool
	AllBuffered() bool
	Buffered() int
	Trailers() []header.Field
	SetReadBy(t time.Time, slack time.Duration)
	ClearReadBy()
	Interrupt() // makes a wait for the response end now; any goroutine may call it

	Protocol() string    // as the access log prints it
	LocalAddr() net.Addr // of the connection below
	LocalText() string   // the same, as the access log prints it
	Reused() bool        // the connection has carried a request before
	First() bool         // this is the first request on the connection
	Secure() bool        // the connection is encrypted

	// Abort ends both directions now; Close must still follow. Any goroutine may
	// call it.
	Abort()
	// Hijack returns the two-way stream that an accepted upgrade opens.
	Hijack() net.Conn
	// Release gives the carrier back after a complete exchange, Close after any
	// other; one of them must be called, once.
	Release(now time.Time)
	Close() error
}

var _ Carrier = (*Conn)(nil)

// WriteHead implements Carrier.
func (c *Conn) WriteHead(h *header.Head, end bool) error {
	c.method = h.Method
	c.w.Request(h, end)
	return nil
}

// WriteData implements Carrier.
func (c *Conn) WriteData(b []byte, end bool) error { return c.wrote(c.w.Data(b, end)) }

// WriteTrailers implements Carrier. HTTP/1.1 has trailers on chunked bodies only.
func (c *Conn) WriteTrailers(fields []header.Field) error {
	c.w.Trailers(fields)
	return nil
}

// Flush implements Carrier.
func (c *Conn) Flush() error { return c.wrote(c.w.Flush()) }

// wrote notes a failed write: part of a request may have gone out, and the next
// one would pass for the rest of it.
func (c *Conn) wrote(err error) error {
	c.torn = c.torn || err != nil
	return err
}

// writeSlack is how stale an armed write deadline may be: moving a timer costs
// more than looking at it, and what it bounds is minutes.
const writeSlack = 30 * time.Second

// SetWriteBy implements Carrier.
func (c *Conn) SetWriteBy(t time.Time) {
	if d := t.Sub(c.writeBy); d >= 0 && d <= writeSlack {
		return
	}
	c.writeBy = t
	c.Conn.SetWriteDeadline(t)
}

// Abort implements Carrier.
func (c *Conn) Abort() { c.Conn.Close() }

// ReadHead implements Carrier.
func (c *Conn) ReadHead(h *header.Head) error { return c.Reader.ReadResponse(h, c.method) }

// Protocol implements Carrier.
func (c *Conn) Protocol() string { return "HTTP/1.1" }

// LocalText implements Carrier.
func (c *Conn) LocalText() string { return c.local }

// Reused implements Carrier.
func (c *Conn) Reused() bool { return c.reused }

// Hijack implements Carrier. Bytes that came behind the response's head are
// read first.
func (c *Conn) Hijack() net.Conn {
	c.SetDeadline(time.Time{})
	return &hijacked{Conn: c.Conn, early: c.Reader.Take()}
}

// hijacked is a connection with bytes that were read ahead.
type hijacked struct {
	net.Conn
	early []byte
}

func (h *hijacked) Read(b []byte) (int, error) {
	if len(h.early) > 0 {
		n := copy(b, h.early)
		h.early = h.early[n:]
		return n, nil
	}
	return h.Conn.Read(b)
}

// NetConn is the connection below.
func (h *hijacked) NetConn() net.Conn { return h.Conn }

// CloseWrite half-closes.
func (h *hijacked) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
