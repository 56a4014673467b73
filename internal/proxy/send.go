package proxy

import (
	"errors"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/h1"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// errWrite marks a failure to write upstream.
var errWrite = errors.New("write upstream")

// readAhead reads a small body before the first try, so that the request can
// be repeated; a large or open-ended one streams. Small means a length of at
// most replayLimit, or being here already.
func (x *exchange) readAhead() bool {
	r := x.c
	if x.bodyDone || r.Complete() || x.req.Upgrade != "" { // what follows an upgrade is no body
		x.bodyDone = true
		return true
	}
	if x.req.Expect100 {
		x.req.Expect100 = false
		if r.proceed() != nil {
			x.reply(&clientGone)
			return false
		}
	}
	if x.req.Framing == header.Length && x.req.Length <= replayLimit || r.AllBuffered() {
		if err := x.bufferBody(replayLimit); err != nil {
			x.replyBodyError(err)
			return false
		}
	}
	return true
}

// bufferBody reads the body up to limit bytes into x.body.
func (x *exchange) bufferBody(limit int) error {
	r := x.c
	x.bodyBuf = append(x.bodyBuf[:0], x.body...)
	for !r.Complete() && len(x.bodyBuf) < limit {
		r.readBy(time.Now().Add(streamIdle), deadlineSlack)
		b, _, err := r.Next()
		x.rec.BytesReceived += int64(len(b))
		if err != nil {
			return err
		}
		x.bodyBuf = append(x.bodyBuf, b...)
	}
	x.body, x.bodyDone = x.bodyBuf, r.Complete()
	return nil
}

// replyBodyError answers a request whose body could not be read.
func (x *exchange) replyBodyError(err error) {
	var protocol *h1.Error
	x.keepAlive = false
	switch {
	case errors.As(err, &protocol):
		x.rec.Details = protocol.Detail
		x.answer(protocol.Status, "")
	case isTimeout(err):
		x.reply(&bodyTimeout)
	default:
		x.reply(&clientGone)
	}
}

// send writes the request: head and body in one write when the body is here,
// otherwise the head, with a pump carrying the body while we wait for the
// response.
func (x *exchange) send() error {
	x.up.SetWriteBy(x.sentAt.Add(streamIdle))
	err := x.sendHead(x.bodyDone && len(x.body) == 0 && len(x.c.Trailers()) == 0)
	if err == nil && len(x.body) > 0 {
		err = x.up.WriteData(x.body, x.bodyDone && len(x.c.Trailers()) == 0)
	}
	if err == nil && x.bodyDone && len(x.c.Trailers()) > 0 {
		err = x.up.WriteTrailers(x.c.Trailers())
	}
	if err == nil {
		err = x.up.Flush()
	}
	if err != nil {
		return errors.Join(errWrite, err)
	}
	if !x.bodyDone {
		x.startPump()
	}
	return nil
}

// sendHead writes the request's head as this hop has it: the host and path the
// route made of it, and the count of tries. The fields are those of the
// request; what is added here lies behind them, so that the next try and the
// access log do not see it.
func (x *exchange) sendHead(end bool) error {
	f, h := x.route.Forward, &x.fwd
	*h = x.req
	h.Host = x.upstreamHost(f)
	h.Path = x.requestTarget()
	if x.chain.outbound {
		h.Fields.Add("x-envoy-attempt-count", itoa(x.attempt))
		if x.timeouts.expected() {
			x.stampTimeouts(&h.Fields)
		}
		if x.up.First() && x.up.Secure() {
			h.Fields.Add(peerHeader, x.rt.metadata)
		}
		if x.debug != "" && x.up.Secure() && x.cluster.Config().AutoTLS != nil {
			h.Fields.Add(debugHeader, x.debug)
		}
	}
	x.req.Fields.Fields = h.Fields.Fields[:len(x.req.Fields.Fields)] // keeps memory that grew
	return x.up.WriteHead(h, end)
}

// requestTarget is the path with its query, as it came where nothing changed
// it.
func (x *exchange) requestTarget() string {
	came := x.req.Path
	if n := len(x.path); n+len(x.query) == len(came) && same(x.path, came[:n]) && same(x.query, came[n:]) {
		return came
	}
	x.target = append(append(x.target[:0], x.path...), x.query...)
	return view(x.target)
}

// same: both are the same bytes in memory, or empty.
func same(a, b string) bool {
	return len(a) == len(b) && (a == "" || unsafe.StringData(a) == unsafe.StringData(b))
}

// pump carries a request body upstream in a goroutine of its own, because the
// response may begin before the request has ended. The exchange that started
// it waits for it.
type pump struct {
	done       chan struct{}
	received   int64
	downstream atomic.Bool // the caller failed, not the upstream
	last       atomic.Bool // the caller's part is through; only writing is left
	ended      time.Time   // when that was; the pump's until last is set
	err        error
	copies     []*mirror // to be fed too
	kept       []byte    // what went up, for another try; the pump's until done is closed
	keeping    atomic.Int32
}

// What a pump does about kept.
const (
	keepsAll    int32 = iota
	keepsNone         // too long, or nobody would ask for it
	keepsPaused       // all, and the pump ends as soon as it can: another try goes on from there
)

func (x *exchange) startPump() {
	p := &pump{done: make(chan struct{}), copies: x.copies}
	if r := x.route.Forward.Retry; r != nil && r.Attempts > 0 {
		p.kept = append(x.bodyBuf[:0], x.body...)
	} else {
		p.keeping.Store(keepsNone)
	}
	x.pump = p
	go p.run(x.c, x.up)
}

// run reads downstream and writes upstream until the body is through. What is
// here goes on in one write. On the caller's failure it interrupts the
// goroutine that waits for the response.
func (p *pump) run(c caller, up upstream.Carrier) {
	defer close(p.done)
	for {
		if !c.ReadyNow() {
			if p.err = up.Flush(); p.err != nil {
				return
			}
			c.readBy(time.Now().Add(streamIdle), deadlineSlack)
		}
		b, done, err := c.Next()
		p.received += int64(len(b))
		if err != nil {
			p.err = err
			p.downstream.Store(true)
			up.Interrupt()
			return
		}
		p.keep(b)
		if done {
			p.ended = time.Now()
			p.last.Store(true)
		}
		for _, m := range p.copies {
			m.feed(b, done, c.Trailers())
		}
		up.SetWriteBy(time.Now().Add(streamIdle))
		if p.err = p.pass(c, up, b, done); p.err != nil || done || p.keeping.Load() == keepsPaused {
			return
		}
	}
}

// keep adds to kept what goes up, while that is not too much. What comes after
// pause is kept however much it is: it is one piece at most.
func (p *pump) keep(b []byte) {
	if len(p.kept)+len(b) > replayLimit {
		p.keeping.CompareAndSwap(keepsAll, keepsNone)
	}
	if p.keeping.Load() != keepsNone {
		p.kept = append(p.kept, b...)
	}
}

// pause asks the pump to end with all it took in kept; false: part is gone.
func (p *pump) pause() bool {
	return p.keeping.CompareAndSwap(keepsAll, keepsPaused) || p.keeping.Load() == keepsPaused
}

func (p *pump) pass(c caller, up upstream.Carrier, b []byte, done bool) error {
	var trailers []header.Field
	if done {
		trailers = c.Trailers()
	}
	if len(b) > 0 || done && len(trailers) == 0 {
		if err := up.WriteData(b, done && len(trailers) == 0); err != nil {
			return err
		}
	}
	if !done {
		return nil
	}
	if len(trailers) > 0 {
		if err := up.WriteTrailers(trailers); err != nil {
			return err
		}
	}
	return up.Flush()
}

// over reports whether the pump has stopped, for whatever reason.
func (p *pump) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failedDownstream reports whether the caller's side broke.
func (p *pump) failedDownstream() bool { return p.downstream.Load() }

// lastWrite is how long the end of a body that is here may take to be written
// after the upstream has answered.
const lastWrite = 100 * time.Millisecond

// endPump ends a pump that runs, wherever it waits. A response may be here
// before the pump has noticed that it is done; one that still reads, or that
// writes to an upstream which no longer listens, costs the upstream its
// connection.
func (x *exchange) endPump(p *pump) {
	if p.last.Load() {
		timer := time.NewTimer(lastWrite)
		defer timer.Stop()
		select {
		case <-p.done:
			return
		case <-timer.C:
		}
	}
	x.whole = false
	x.c.wake()
	x.up.Abort()
	<-p.done
	x.c.rearm()
}

// stopPump ends the pump. What it took is the request's body so far, and another
// try goes on from there, unless it was too much to be kept.
func (x *exchange) stopPump() {
	p := x.pump
	if p == nil {
		return
	}
	x.lost = !p.pause()
	if !p.over() {
		x.endPump(p)
	}
	if p.err != nil || !p.last.Load() { // the upstream takes what comes next for the rest
		x.whole = false
	}
	x.rec.BytesReceived += p.received
	if p.last.Load() || x.lost {
		x.seeRequestEnd()
	}
	if !x.lost {
		x.bodyBuf = p.kept
		x.body, x.bodyDone = x.bodyBuf, p.last.Load()
		if !x.bodyDone { // an upstream that took no more has passed for the end
			x.ended, x.deadline, x.limit = false, time.Time{}, time.Time{}
		}
	}
	x.pump = nil
}
