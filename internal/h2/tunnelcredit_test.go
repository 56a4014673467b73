package h2

import (
	"testing"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/header"
)

// What a tunnel leaves unread gives its window back once: one direction may
// close it while the other still reads what has arrived.
func TestClosedTunnelGivesItsWindowBackOnce(t *testing.T) {
	read := make(chan error)
	r, c := rawClient(t, Options{ExtendedConnect: true, Handler: func(s *Stream) {
		go func() {
			defer s.Close()
			s.WriteHead(&header.Head{Status: 200, Framing: header.Open}, false)
			nc := s.NetConn()
			b := make([]byte, 100)
			_, err := nc.Read(b)
			read <- err
			<-read
			nc.Close()
			for err = nil; err == nil; {
				_, err = nc.Read(b)
			}
			read <- err
		}()
	}})
	r.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "mesh.test")
	r.fr.WriteData(1, false, make([]byte, 1000))
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	r.fr.WriteData(1, false, make([]byte, 1000))
	r.fr.WritePing(false, [8]byte{1})
	r.until(isPingAck)
	read <- nil
	<-read
	c.mu.Lock()
	defer c.mu.Unlock()
	if got, want := c.recvWindow+c.recvCredit, int64(c.opts.ConnWindow); got != want {
		t.Errorf("the window grows by %d", got-want)
	}
}

func isPingAck(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() }
