package proxy

import (
	"errors"
	"sync/atomic"
	"time"

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
	r := x.c.reader
	if x.bodyDone || r.Complete() {
		x.bodyDone = true
		return true
	}
	if x.req.Expect100 {
		x.req.Expect100 = false
		if x.c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")) != nil {
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
	r := x.c.reader
	x.bodyBuf = append(x.bodyBuf[:0], x.body...)
	for !r.Complete() && len(x.bodyBuf) < limit {
		x.c.readBy(time.Now().Add(streamIdle), deadlineSlack)
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
	b := x.appendRequest(x.head[:0])
	switch {
	case x.bodyDone:
		b = x.appendBody(b, x.body)
		if x.req.Framing == header.Open {
			b = h1.AppendLastChunk(b, x.c.reader.Trailers())
		}
	default:
		b = x.appendBody(b, x.body)
	}
	x.head = b
	x.up.SetWriteDeadline(time.Now().Add(streamIdle))
	if _, err := x.up.Write(b); err != nil {
		return errors.Join(errWrite, err)
	}
	if !x.bodyDone {
		x.startPump()
	}
	return nil
}

func (x *exchange) appendBody(b, body []byte) []byte {
	if x.req.Framing == header.Open {
		return h1.AppendChunk(b, body)
	}
	return append(b, body...)
}

// appendRequest builds the request's head.
func (x *exchange) appendRequest(b []byte) []byte {
	f := x.route.Forward
	host := x.req.Host
	if f.HostRewrite != "" {
		host = f.HostRewrite
	}
	b = append(b, x.method...)
	b = append(b, ' ')
	b = append(b, x.path...)
	b = append(b, x.query...)
	b = append(b, " HTTP/1.1\r\nhost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	b = h1.AppendFields(b, x.req.Fields.Fields)
	switch {
	case x.req.Framing == header.NoBody && (x.req.HasLength || x.method == "POST" || x.method == "PUT"):
		b = h1.AppendFraming(b, header.Length, 0)
	default:
		b = h1.AppendFraming(b, x.req.Framing, x.req.Length)
	}
	if x.chain.outbound {
		b = h1.AppendField(b, "x-envoy-attempt-count", itoa(x.attempt))
		if x.up.First() && x.up.Secure() {
			b = h1.AppendField(b, peerHeader, x.rt.metadata)
		}
	}
	if x.req.Trailers {
		b = h1.AppendField(b, "te", "trailers")
	}
	if x.req.Upgrade != "" {
		b = append(b, "connection: upgrade\r\n"...)
		b = h1.AppendField(b, "upgrade", x.req.Upgrade)
	}
	return h1.AppendEnd(b)
}

// pump carries a request body upstream in a goroutine of its own, because the
// response may begin before the request has ended. The exchange that started
// it waits for it.
type pump struct {
	done       chan struct{}
	received   int64
	downstream atomic.Bool // the caller failed, not the upstream
	err        error
}

func (x *exchange) startPump() {
	p := &pump{done: make(chan struct{})}
	x.pump = p
	go p.run(x.c, x.up, x.req.Framing)
}

// run reads downstream and writes upstream until the body is through. On the
// caller's failure it closes the upstream connection's writing, so that the
// goroutine that waits for the response wakes up.
func (p *pump) run(c *httpConn, up *upstream.Conn, framing header.Framing) {
	defer close(p.done)
	var out []byte
	for {
		c.readBy(time.Now().Add(streamIdle), deadlineSlack)
		b, done, err := c.reader.Next()
		p.received += int64(len(b))
		if err != nil {
			p.err = err
			p.downstream.Store(true)
			up.Interrupt()
			return
		}
		out = out[:0]
		if framing == header.Open {
			out = h1.AppendChunk(out, b)
			if done {
				out = h1.AppendLastChunk(out, c.reader.Trailers())
			}
			b = out
		}
		if len(b) > 0 {
			up.SetWriteDeadline(time.Now().Add(streamIdle))
			if _, err := up.Write(b); err != nil {
				p.err = err
				return
			}
		}
		if done {
			return
		}
	}
}

// failedDownstream reports whether the caller's side broke.
func (p *pump) failedDownstream() bool { return p.downstream.Load() }

// stopPump ends the pump and waits for it. A body that is not through makes
// the downstream connection unusable for another request.
func (x *exchange) stopPump() {
	p := x.pump
	if p == nil {
		return
	}
	select {
	case <-p.done:
	default:
		x.c.conn.SetReadDeadline(time.Unix(1, 0)) // wake it if it is reading
		<-p.done
		x.c.readDeadline = time.Time{}
		x.c.conn.SetReadDeadline(time.Time{})
	}
	x.rec.BytesReceived += p.received
	if p.err != nil || !x.c.reader.Complete() {
		x.keepAlive = false
	}
	x.pump = nil
}
