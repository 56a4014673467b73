package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/header"
)

// A caller of HTTP/1.0 that keeps its connection must be told how long a body
// is, even one of unknown length that turned out to be empty.
func TestEmptyOpenBodyForHTTP10(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h2.NewConn(c, h2.Options{Server: true, Handler: func(s *h2.Stream) {
				go func() {
					defer s.Close()
					s.WriteHead(&header.Head{Status: 200}, false)
					s.WriteData(nil, true) // in one write with the head
					s.Flush()
				}()
			}}).Serve()
		}
	}()
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		c := static("worker", l.Addr().String())
		c.HTTP.Protocol = "http2"
		m.snapA.Clusters[0] = c
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("%v: %v", resp.Header, err)
	}
}
