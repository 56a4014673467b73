package proxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// http2Conn serves HTTP/2 on one downstream connection: one goroutine reads
// frames, each stream has a goroutine for its exchange. These goroutines wait
// for the next stream when one is through: a new one would have to grow its
// stack again, which costs more than all of authorization.
type http2Conn struct {
	*downstream
	h2 *h2.Conn

	streams   atomic.Int64 // being served
	lastDone  atomic.Int64 // when the last one ended, Unix nanoseconds
	idleLimit time.Duration
	idle      *time.Timer

	mu     sync.Mutex
	free   []*http2Stream // whose goroutines wait; the one used last is at the end
	rested bool           // they were dismissed since the last stream
	ended  bool           // no stream will come
}

// http2Stream is one stream of a downstream connection, the caller of its
// exchange. It is reused from stream to stream.
type http2Stream struct {
	*h2.Stream
	c      *http2Conn
	x      exchange
	onGone func() // left, made once

	next chan bool // wakes the goroutine that waits: for a stream, or (false) for its end

	mu      sync.Mutex
	waiting upstream.Carrier // guarded by mu: to be interrupted if the caller leaves
}

var _ caller = (*http2Stream)(nil)

// serveHTTP2 speaks HTTP/2 until the connection ends; early is what was read
// of it before.
func (d *downstream) serveHTTP2(early []byte) {
	c := &http2Conn{downstream: d}
	d.conn.SetDeadline(time.Time{})
	c.h2 = h2.NewConn(d.conn, h2.Options{
		Server: true, Buffered: early, Handler: c.accept, WriteWait: streamIdle,
		ExtendedConnect: len(d.chain.upgrades) > 0,
	})
	c.lastDone.Store(time.Now().UnixNano())
	c.idleLimit = d.idleTimeout()
	c.idle = time.AfterFunc(c.idleLimit, c.closeIfUnused)
	c.idle.Reset(c.nextLook(0))        // not at once: the function looks at c.idle
	if !d.setShutdown(c.h2.Shutdown) { // drained while we were getting ready
		c.h2.Shutdown()
	}
	err := c.h2.Serve()
	c.idle.Stop()
	c.dismiss(true)
	if err != nil {
		d.p.log.Debug("HTTP/2 connection ended", "from", d.remoteText, "err", err)
	}
	d.p.stats.http2.add(c.h2.Stats())
	c.conn.Close()
}

// accept is called by the reading goroutine for each request.
func (c *http2Conn) accept(stream *h2.Stream) {
	if !c.follow() {
		stream.Reset(h2.RefusedStream)
		stream.Close()
		c.h2.Shutdown()
		return
	}
	s, waits := c.take()
	s.Stream = stream
	stream.OnGone(s.onGone)
	s.x.reset()
	s.x.req, *stream.Head() = *stream.Head(), s.x.req // fields change hands, and so does their memory
	s.x.begin()
	c.streams.Add(1)
	if waits {
		s.next <- true
		return
	}
	go s.run()
}

// run handles one stream after another.
func (s *http2Stream) run() {
	for s.serve() && <-s.next {
	}
}

// serve handles the stream's request. It reports whether the goroutine is to
// wait for another.
func (s *http2Stream) serve() (waits bool) {
	c := s.c
	s.canonical()
	s.x.handle()
	s.Stream.Close()
	if c.streams.Add(-1) == 0 {
		c.lastDone.Store(time.Now().UnixNano())
	}
	return c.give(s)
}

// canonical makes an extended CONNECT the upgrade that it is in HTTP/1.1
// (RFC 8441 section 5), so that routes and policies see one form of it.
func (s *http2Stream) canonical() {
	req := &s.x.req
	if req.Upgrade != "" {
		req.Method, req.Framing = "GET", header.NoBody
	}
	if req.Upgrade == "websocket" && !req.Fields.Has("sec-websocket-key") {
		req.Fields.Add("sec-websocket-key", websocketKey())
	}
	req.KeepAlive = true
}

// take returns the stream that was given back last, whose memory is warm and
// whose goroutine waits, or a new one without.
func (c *http2Conn) take() (s *http2Stream, waits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rested {
		c.rested = false
		c.idle.Reset(c.nextLook(0))
	}
	if n := len(c.free); n > 0 {
		s = c.free[n-1]
		c.free = c.free[:n-1]
		return s, true
	}
	s = &http2Stream{c: c, next: make(chan bool, 1)}
	s.x.d, s.x.c = c.downstream, s
	s.onGone = s.left
	return s, false
}

// maxWaiting is how many goroutines of a connection wait for a stream: enough
// for its usual load, not for what one burst needed.
const maxWaiting = 64

// give takes the stream back if its goroutine is to wait for another.
func (c *http2Conn) give(s *http2Stream) (waits bool) {
	s.Stream = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || len(c.free) >= maxWaiting {
		return false
	}
	c.free = append(c.free, s)
	return true
}

// dismiss ends the goroutines that wait, and lets go of their memory.
func (c *http2Conn) dismiss(ended bool) {
	c.mu.Lock()
	free := c.free
	c.free, c.rested, c.ended = nil, true, c.ended || ended
	c.mu.Unlock()
	for _, s := range free {
		s.next <- false
	}
}

// closeIfUnused ends a connection that has had no stream for its idle timeout.
// One that has had none for a while keeps nothing for the next.
func (c *http2Conn) closeIfUnused() {
	unused := time.Since(time.Unix(0, c.lastDone.Load()))
	if c.streams.Load() > 0 {
		unused = 0
	}
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended {
		return
	}
	if unused >= c.idleLimit {
		c.closeIfIdle()
		return
	}
	if unused >= c.p.opts.RestAfter {
		c.dismiss(false)
	}
	c.idle.Reset(c.nextLook(unused))
}

// nextLook is when there may be something to do for a connection that has been
// without a stream for a time.
func (c *http2Conn) nextLook(unused time.Duration) time.Duration {
	next := c.idleLimit - unused
	if rest := c.p.opts.RestAfter - unused; rest > 0 {
		next = min(next, rest)
	}
	return max(next, time.Millisecond)
}

func (s *http2Stream) readBy(t time.Time, slack time.Duration) { s.SetReadBy(t, slack) }

func (s *http2Stream) proceed() error {
	if err := s.WriteHead(&header.Head{Status: 100}, false); err != nil {
		return err
	}
	return s.Flush()
}

func (s *http2Stream) head(h *header.Head, end bool) error {
	if h.Status == 101 { // what HTTP/2 calls an accepted extended CONNECT
		h.Status, h.Upgrade = 200, ""
		h.Fields.Del("sec-websocket-accept") // it answers a key that HTTP/2 does not have
	}
	return s.WriteHead(h, end)
}

func (s *http2Stream) data(b []byte, end bool) error { return s.WriteData(b, end) }

func (s *http2Stream) end(trailers []header.Field) error { return s.WriteTrailers(trailers) }

func (s *http2Stream) flush() error { return s.Flush() }

func (s *http2Stream) cut() { s.Reset(h2.InternalError) }

func (s *http2Stream) gone() bool    { return s.PeerGone() }
func (s *http2Stream) leaving() bool { return s.PeerGone() }

// watch names the carrier that left interrupts. A caller that has left already
// is found out by the wait's first look at gone.
func (s *http2Stream) watch(up upstream.Carrier) {
	s.mu.Lock()
	s.waiting = up
	if up != nil && s.PeerGone() {
		up.Interrupt()
	}
	s.mu.Unlock()
}

// left is called by the reading goroutine when the peer has reset the stream
// or the connection has broken.
func (s *http2Stream) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting != nil && s.PeerGone() { // else it came too late, and another request is being served
		s.waiting.Interrupt()
	}
}

func (s *http2Stream) wake()  { s.Interrupt() }
func (s *http2Stream) rearm() { s.ClearReadBy() }

func (s *http2Stream) drains() bool { return false } // the connection says so, once

func (s *http2Stream) hijack() net.Conn { return s.NetConn() }

func (s *http2Stream) protocol() string { return telemetry.HTTP2 }
