package h2

import (
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
)

// Stream is one request and its response. One goroutine may read and another
// write at the same time; Interrupt, Reset, Err and PeerGone may be called by
// any. Its memory is used again after Close.
type Stream struct {
	c  *Conn
	id uint32 // 0 until the request is written

	readable, writable sync.Cond // on Conn.mu; one waiter each

	arena    arena
	head     header.Head   // server: the request; written before Handler sees the stream
	pending  []pendingHead // client: responses read and not yet taken, the first heads of them
	heads    int
	trailers header.Map
	method   string // client: of the request, as far as it matters

	received, current []byte // of the body: not yet taken; handed out by Next
	recvWindow, owed  int64  // what the peer may send; what was taken and not given back
	got, declared     int64  // bytes of DATA so far; content-length or -1
	sendWindow        int64

	registered bool // in Conn.streams
	headRead   bool // the (final) head was received
	recvEnd    bool // END_STREAM was received
	sentHead   bool
	sentEnd    bool
	tunnel     bool // handed out as a net.Conn: never used again
	released   bool
	queued     bool // in input.wake
	err        error
	onGone     func()

	readBy, writeBy           time.Time
	waitBy                    time.Time // bounds the wait of writing
	reading, writing          bool      // somebody waits
	readExpired, writeExpired bool
	interrupted               bool
}

// pendingHead is a response's head on its way to ReadHead.
type pendingHead struct{ head header.Head }

// maxKeptBody is the largest body buffer a pooled stream keeps, maxFree how
// many streams a connection keeps.
const (
	maxKeptBody = 64 << 10
	maxFree     = 256
)

// newStream takes a stream from the connection's pool. With mu held.
func (c *Conn) newStream() *Stream {
	if n := len(c.free); n > 0 {
		s := c.free[n-1]
		c.free = c.free[:n-1]
		s.released = false
		return s
	}
	s := &Stream{c: c, declared: -1}
	s.readable.L, s.writable.L = &c.mu, &c.mu
	return s
}

// open gives the stream its number. With mu held.
func (s *Stream) open(id uint32) {
	c := s.c
	s.id = id
	s.recvWindow = int64(c.opts.StreamWindow)
	if !c.acked { // until then the peer may rely on the protocol's default
		s.recvWindow = max(s.recvWindow, defaultWindow)
	}
	s.sendWindow = c.peer.window
	s.registered = true
	c.streams[id] = s
}

// recycle gives the stream's memory back. With mu held; the owner is done.
func (c *Conn) recycle(s *Stream) {
	s.released = true
	if s.tunnel || len(c.free) >= maxFree {
		return
	}
	s.arena.reset()
	s.head.Reset()
	s.trailers.Reset()
	if cap(s.received) > maxKeptBody {
		s.received = nil
	}
	if cap(s.current) > maxKeptBody {
		s.current = nil
	}
	s.id, s.heads, s.method = 0, 0, ""
	s.received, s.current = s.received[:0], s.current[:0]
	s.recvWindow, s.owed, s.got, s.declared, s.sendWindow = 0, 0, 0, -1, 0
	s.registered, s.headRead, s.recvEnd, s.sentHead, s.sentEnd = false, false, false, false, false
	s.err, s.onGone = nil, nil
	s.readBy, s.writeBy = time.Time{}, time.Time{}
	s.reading, s.writing, s.readExpired, s.writeExpired, s.interrupted = false, false, false, false, false
	c.free = append(c.free, s)
}

// Open starts a stream on a client's connection. Nothing is sent before
// WriteHead.
func (c *Conn) Open() (*Stream, error) {
	c.mu.Lock()
	defer c.unlock()
	if err := c.mayOpen(); err != nil {
		return nil, err
	}
	c.hold()
	return c.newStream(), nil
}

// ID is the stream's number; 0 before its request was written.
func (s *Stream) ID() uint32 {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.id
}

// Conn is the connection the stream belongs to.
func (s *Stream) Conn() *Conn { return s.c }

// OnGone has f called once if the peer resets the stream or the connection is
// lost before Close; at once if that has happened. f is called with no lock
// held, possibly a moment after Close: it must look whom it concerns.
func (s *Stream) OnGone(f func()) {
	s.c.mu.Lock()
	gone := s.err != nil
	if !gone {
		s.onGone = f
	}
	s.c.mu.Unlock()
	if gone {
		f()
	}
}

// Head is the request a server received.
func (s *Stream) Head() *header.Head { return &s.head }

// fail ends the stream for both sides. With mu held.
func (s *Stream) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.registered = false
	if s.onGone != nil {
		s.c.due.gone = append(s.c.due.gone, s.onGone)
		s.onGone = nil
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
}

// reset sends RST_STREAM if the peer may still think of the stream as open.
// With mu held.
func (s *Stream) reset(code Code, err error) {
	c := s.c
	if s.registered {
		delete(c.streams, s.id)
		c.output.buf = appendReset(c.output.buf, s.id, code)
		c.reset.add(s.id)
	}
	s.fail(err)
}

// endRecv notes that the peer's half is complete. With mu held.
func (s *Stream) endRecv() {
	s.recvEnd = true
	s.done()
}

// done takes the stream out of the protocol's books when both halves are
// complete. With mu held.
func (s *Stream) done() {
	if s.recvEnd && s.sentEnd && s.registered {
		delete(s.c.streams, s.id)
		s.registered = false
	}
}

// Reset ends the stream now with RST_STREAM, and both halves with an error.
func (s *Stream) Reset(code Code) error {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if s.released {
		return nil
	}
	s.reset(code, &StreamError{Code: code, Reason: "by us"})
	return c.flush()
}

// Err is why the stream ended before its time, nil if it did not.
func (s *Stream) Err() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.err
}

// PeerGone reports whether the peer has reset the stream or the connection is
// lost.
func (s *Stream) PeerGone() bool { return s.Err() != nil }

// Close gives the stream back. What is unfinished is reset: with NO_ERROR by a
// server that has answered before the request was complete (RFC 9113 section
// 8.1), else with CANCEL. Nothing may touch the stream afterwards.
func (s *Stream) Close() {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if s.released {
		return
	}
	before := len(c.output.buf)
	if s.registered {
		code := Cancel
		if c.opts.Server && s.sentEnd {
			code = NoError
		}
		s.reset(code, ErrClosed)
	}
	s.release()
	if len(c.output.buf) > before {
		c.flush()
	}
}

// release is the owner's last act. With mu held.
func (s *Stream) release() {
	c := s.c
	c.credit(int64(len(s.received)) + int64(len(s.current)))
	s.received, s.current = s.received[:0], s.current[:0] // of a tunnel somebody may still read
	c.recycle(s)
	c.letGo()
}
