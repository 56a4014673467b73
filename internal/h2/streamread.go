package h2

import (
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
)

// ReadHead waits for the next response head, interim ones included. Its
// strings live until Close.
func (s *Stream) ReadHead(h *header.Head) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for s.heads == 0 {
		if s.err != nil {
			return s.err
		}
		if err := s.waitRead(); err != nil {
			return err
		}
	}
	first := s.pending[0].head
	s.heads--
	copy(s.pending, s.pending[1:])
	h.Reset()
	s.pending[len(s.pending)-1].head = header.Head{Fields: h.Fields} // the caller's memory for ours
	*h = first
	return nil
}

// Next returns the next bytes of the body, valid until the following call, and
// done with or after the last of them. Only that following call opens the
// peer's window again for what was returned. Errors: os.ErrDeadlineExceeded
// after the deadline or Interrupt, else why the stream ended.
func (s *Stream) Next() (b []byte, done bool, err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(s.current); n > 0 {
		s.current = s.current[:0]
		before := len(c.output.buf)
		s.giveBack(int64(n))
		if len(c.output.buf) > before {
			c.flush()
		}
	}
	for len(s.received) == 0 {
		if s.recvEnd {
			return nil, true, nil
		}
		if s.err != nil {
			return nil, false, s.err
		}
		if err := s.waitRead(); err != nil {
			return nil, false, err
		}
	}
	s.current, s.received = s.received, s.current
	return s.current, s.recvEnd, nil
}

// giveBack returns n bytes of window to the peer, once they are worth a frame.
// With mu held.
func (s *Stream) giveBack(n int64) {
	c := s.c
	c.credit(n)
	if s.recvEnd || !s.registered {
		return
	}
	s.owed += n
	if s.owed >= int64(c.opts.StreamWindow)/2 {
		c.output.buf = appendWindow(c.output.buf, s.id, s.owed)
		s.recvWindow += s.owed
		s.owed = 0
	}
}

// credit does the same for a server's connection window; a client's has been
// restored already.
func (c *Conn) credit(n int64) {
	if c.opts.Server {
		c.restore(n)
	}
}

// restore returns n bytes of the connection's window, once they are worth a
// frame.
func (c *Conn) restore(n int64) {
	c.recvCredit += n
	if c.recvCredit >= int64(c.opts.ConnWindow)/2 {
		c.output.buf = appendWindow(c.output.buf, 0, c.recvCredit)
		c.recvWindow += c.recvCredit
		c.recvCredit = 0
	}
}

// waitRead waits once. With mu held.
func (s *Stream) waitRead() error {
	if s.interrupted {
		return os.ErrDeadlineExceeded
	}
	s.readExpired, s.reading = false, true
	if !s.readBy.IsZero() {
		s.c.timer.arm(s.readBy)
	}
	s.readable.Wait()
	s.reading = false
	if s.readExpired || s.interrupted {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Complete reports whether the whole body has been taken.
func (s *Stream) Complete() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recvEnd && len(s.received) == 0
}

// ReadyNow reports whether Next would return without waiting.
func (s *Stream) ReadyNow() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return len(s.received) > 0 || s.recvEnd || s.err != nil
}

// AllBuffered reports whether the rest of the body is here.
func (s *Stream) AllBuffered() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recvEnd
}

// Buffered is how much of the body is here and not taken.
func (s *Stream) Buffered() int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return len(s.received)
}

// Trailers are the fields behind a complete body.
func (s *Stream) Trailers() []header.Field {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.recvEnd {
		return nil
	}
	return s.trailers.Fields
}

// SetReadBy bounds the next waits of ReadHead and Next; the zero time does
// not. It starts no timer, so that slack, which *h1.Reader's owners need, does
// nothing here. It does not undo Interrupt.
func (s *Stream) SetReadBy(t time.Time, slack time.Duration) {
	s.c.mu.Lock()
	s.readBy = t
	if s.reading && !t.IsZero() {
		s.c.timer.arm(t)
	}
	s.c.mu.Unlock()
}

// ClearReadBy takes the deadline and an Interrupt back.
func (s *Stream) ClearReadBy() {
	s.c.mu.Lock()
	s.readBy, s.interrupted = time.Time{}, false
	s.c.mu.Unlock()
}

// Interrupt makes a wait in ReadHead or Next, and every later one until
// ClearReadBy, end with os.ErrDeadlineExceeded.
func (s *Stream) Interrupt() {
	s.c.mu.Lock()
	s.interrupted = true
	s.readable.Broadcast()
	s.c.mu.Unlock()
}
