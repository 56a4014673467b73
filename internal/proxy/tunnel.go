package proxy

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/h1"
)

// upgrade switches protocols: the 101 goes downstream, then bytes flow both
// ways until either side ends.
func (x *exchange) upgrade() {
	x.replied, x.keepAlive = true, false
	x.rec.Status, x.rec.Details = 101, "via_upstream"
	b := h1.AppendStatusLine(x.c.out[:0], 101, x.res.Reason)
	b = h1.AppendFields(b, x.res.Fields.Fields)
	b = append(b, "connection: upgrade\r\n"...)
	b = h1.AppendField(b, "upgrade", x.res.Upgrade)
	b = h1.AppendEnd(b)
	b = append(b, x.up.Reader.Take()...)
	if !x.writeDown(b) {
		x.closeUpstream()
		return
	}
	if early := x.c.reader.Take(); len(early) > 0 {
		if _, err := x.up.Write(early); err != nil {
			x.closeUpstream()
			return
		}
	}
	x.c.downstream.conn.SetDeadline(time.Time{})
	x.up.SetDeadline(time.Time{})
	received, sent := splice(x.c.conn, x.up.Conn, defaultIdle, nil)
	x.rec.BytesReceived += received
	x.rec.BytesSent += sent
	x.up.Close()
	x.up = nil
}

// tunnelBuffer is the piece in which encrypted bytes are moved.
const tunnelBuffer = 32 << 10

// splice copies both ways until both directions have ended or nothing has
// moved for idle. An end in one direction is passed on as a half-close; the
// other direction goes on. progress, if set, is told of bytes as they move
// (from down, to down).
func splice(down, up net.Conn, idle time.Duration, progress func(received, sent int64)) (received, sent int64) {
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	done := make(chan struct{})
	go func() {
		defer close(done)
		received = copyOne(up, down, idle, &last, func(n int64) {
			if progress != nil {
				progress(n, 0)
			}
		})
	}()
	sent = copyOne(down, up, idle, &last, func(n int64) {
		if progress != nil {
			progress(0, n)
		}
	})
	<-done
	return received, sent
}

// copyOne moves bytes from src to dst. When src ends, dst is half-closed; when
// either breaks, both are closed, which ends the other direction too.
func copyOne(dst, src net.Conn, idle time.Duration, last *atomic.Int64, moved func(int64)) (total int64) {
	buf := make([]byte, tunnelBuffer)
	for {
		src.SetReadDeadline(time.Unix(0, last.Load()).Add(idle))
		n, err := src.Read(buf)
		if n > 0 {
			last.Store(time.Now().UnixNano())
			if _, werr := dst.Write(buf[:n]); werr != nil {
				src.Close()
				dst.Close()
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
		case isTimeout(err) && time.Since(time.Unix(0, last.Load())) < idle:
			// The other direction has moved bytes meanwhile.
		default:
			src.Close()
			dst.Close()
			return total
		}
	}
}

func halfClose(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
		return
	}
	c.Close()
}
