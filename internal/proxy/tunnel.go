package proxy

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// upgrade switches protocols: the 101 goes downstream, then bytes flow both
// ways until either side ends.
func (x *exchange) upgrade() {
	x.replied, x.keepAlive = true, false
	x.rec.Status, x.rec.Details = 101, "via_upstream"
	x.prepareResponse()
	if key := x.req.Fields.First("sec-websocket-key"); key != "" && !x.res.Fields.Has("sec-websocket-accept") {
		x.res.Fields.Add("sec-websocket-accept", websocketAccept(key)) // the upstream spoke HTTP/2
	}
	if !x.sent(x.c.head(&x.res, false)) || !x.sent(x.c.flush()) {
		x.closeUpstream()
		return
	}
	down, up := x.c.hijack(), x.up.Hijack()
	stop := x.d.watch(x.stillAllowed(), func() {
		down.Close()
		up.Close()
	})
	received, sent := splice(down, up, defaultIdle, nil)
	stop()
	x.rec.BytesReceived += received
	x.rec.BytesSent += sent
	x.closeUpstream()
}

// websocketKey makes a Sec-WebSocket-Key for a caller whose protocol needs none
// (RFC 8441 section 5) before an upstream whose protocol does.
func websocketKey() string {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(b[8:], rand.Uint64())
	return base64.StdEncoding.EncodeToString(b[:])
}

// websocketAccept answers a key (RFC 6455 section 4.2.2).
func websocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// tunnelBuffer is the piece in which encrypted bytes are moved.
const tunnelBuffer = 32 << 10

// splice copies both ways until both directions have ended or nothing has
// moved for idle. An end in one direction is passed on as a half-close; the
// other direction goes on. progress, if set, is told of bytes as they move
// (from down, to down).
func splice(down, up net.Conn, idle time.Duration, progress func(received, sent int64)) (received, sent int64) {
	down.SetDeadline(time.Time{}) // a request's, where one opened the session
	up.SetDeadline(time.Time{})
	w := newIdleWatch(idle, down, up)
	defer w.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		received = copyOne(up, down, &w.last, func(n int64) {
			if progress != nil {
				progress(n, 0)
			}
		})
	}()
	sent = copyOne(down, up, &w.last, func(n int64) {
		if progress != nil {
			progress(0, n)
		}
	})
	<-done
	return received, sent
}

// idleWatch ends a session on which nothing moves. It is a timer of its own, not
// the deadline of who reads: a session may be idle while all that is left of it
// waits to write.
type idleWatch struct {
	last atomic.Int64 // when bytes came, Unix nanoseconds

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	over  bool // the connections may belong to others
}

func newIdleWatch(idle time.Duration, conns ...net.Conn) *idleWatch {
	w := &idleWatch{}
	w.last.Store(time.Now().UnixNano())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(idle, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		left := idle - time.Since(time.Unix(0, w.last.Load()))
		switch {
		case w.over:
		case left > 0:
			w.timer.Reset(left)
		default:
			for _, c := range conns {
				c.Close()
			}
		}
	})
	return w
}

func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// copyOne moves bytes from src to dst. When src ends, dst is half-closed; when
// either breaks, both are closed, which ends the other direction too.
func copyOne(dst, src net.Conn, last *atomic.Int64, moved func(int64)) (total int64) {
	buf := make([]byte, tunnelBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			last.Store(time.Now().UnixNano())
			if _, werr := dst.Write(buf[:n]); werr != nil {
				dst.Close()
				breakOff(src, werr)
				return total
			}
			total += int64(n)
			moved(int64(n))
		}
		switch {
		case err == nil:
		case err == io.EOF:
			halfClose(dst)
			return total
		default:
			src.Close()
			breakOff(dst, err)
			return total
		}
	}
}

// breakOff passes on that the other side broke: a reset stays a reset, as in
// Envoy, and TLS that ended without its close_notify is not made to look like
// a clean end. Our own doing (idle, drain) is an orderly close.
func breakOff(c net.Conn, err error) {
	if errors.Is(err, net.ErrClosed) {
		c.Close()
		return
	}
	raw := c
	for {
		inner, ok := raw.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		raw = inner.NetConn()
	}
	if l, ok := raw.(interface{ SetLinger(sec int) error }); ok {
		l.SetLinger(0)
		raw.Close()
	}
	c.Close()
}

func halfClose(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
		return
	}
	c.Close()
}
