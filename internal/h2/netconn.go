package h2

import (
	"io"
	"net"
	"time"
)

// NetConn returns the stream's bodies as a connection, for a tunnel. From then
// on the stream is used through it only, but for Close, which may be called on
// either or both. What was queued, the head that opened the tunnel above all,
// is written.
func (s *Stream) NetConn() net.Conn {
	s.c.mu.Lock()
	s.tunnel = true
	s.c.flush() // a failure shows in the first Read or Write
	s.c.mu.Unlock()
	return &streamConn{s: s}
}

type streamConn struct {
	s    *Stream
	rest []byte // of what Next returned
	done bool
}

// Read implements net.Conn.
func (t *streamConn) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		if t.done {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		var err error
		if t.rest, t.done, err = t.s.Next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (t *streamConn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := t.s.WriteData(p, false); err != nil {
		return 0, err
	}
	return len(p), t.s.Flush()
}

// CloseWrite ends our half.
func (t *streamConn) CloseWrite() error {
	if err := t.s.WriteData(nil, true); err != nil {
		return err
	}
	return t.s.Flush()
}

// Close resets what is unfinished.
func (t *streamConn) Close() error {
	t.s.Close()
	return nil
}

func (t *streamConn) LocalAddr() net.Addr  { return t.s.c.nc.LocalAddr() }
func (t *streamConn) RemoteAddr() net.Addr { return t.s.c.nc.RemoteAddr() }

// SetDeadline implements net.Conn.
func (t *streamConn) SetDeadline(at time.Time) error {
	t.SetReadDeadline(at)
	return t.SetWriteDeadline(at)
}

// SetReadDeadline implements net.Conn. It also undoes Interrupt.
func (t *streamConn) SetReadDeadline(at time.Time) error {
	t.s.ClearReadBy()
	t.s.SetReadBy(at, 0)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (t *streamConn) SetWriteDeadline(at time.Time) error {
	t.s.SetWriteBy(at)
	return nil
}
