package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// muteMesh is a mesh whose application speaks HTTP/2, takes everything and says
// nothing, not even its SETTINGS.
func muteMesh(t *testing.T, edit func(app *ir.Cluster)) *mesh {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, c)
		}
	}()
	return newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		c := m.snapB.Clusters[0]
		c.Endpoints.Endpoints[0].Address = l.Addr().String()
		c.HTTP.Protocol = ir.HTTP2
		edit(c)
	})
}

// A connection whose peer answers no PING has broken. It used to look like a
// wait that may go on, and was looked at again without a pause.
func TestUnansweredPingEndsTheRequest(t *testing.T) {
	m := muteMesh(t, func(app *ir.Cluster) {
		app.HTTP.HTTP2KeepAlive = &ir.HTTP2KeepAlive{Interval: ir.Duration(10 * time.Millisecond), Timeout: ir.Duration(10 * time.Millisecond)}
	})
	client := &http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(m.url + "/lost")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 503 {
		t.Error(resp.Status)
	}
	if log := m.logB.wait(t, "/lost"); !strings.Contains(log, " UC ") {
		t.Error(log)
	}
}

// An upgrade has to wait for the SETTINGS of an upstream that speaks HTTP/2. One
// that never sends them has not let itself be connected to in time.
func TestUpgradeToAnUpstreamWithoutSettings(t *testing.T) {
	m := muteMesh(t, func(app *ir.Cluster) { app.ConnectTimeout = ir.Duration(20 * time.Millisecond) })
	c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 {
		t.Error(resp.Status)
	}
	if log := m.logB.wait(t, "/chat"); !strings.Contains(log, " UF ") {
		t.Error(log)
	}
}

// A drain ends copies of requests wherever they are, writing to somebody who
// does not read among them.
func TestDrainEndsACopyThatIsBeingWritten(t *testing.T) {
	for _, protocol := range []string{ir.HTTP2, ir.HTTP1} {
		t.Run(protocol, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			reached := make(chan net.Conn, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					c.Read(make([]byte, 1))
					reached <- c
				}
			}()
			m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }), func(m *mesh) {
				c := static("copy", l.Addr().String())
				c.HTTP.Protocol = protocol
				m.snapA.Clusters = append(m.snapA.Clusters, c)
				m.route().Forward.Mirrors = []ir.Mirror{{Cluster: "copy", Share: ir.All}}
			})
			// More than HTTP/2's window.
			resp, err := http.Post(m.url+"/", "text/plain", strings.NewReader(strings.Repeat("x", 200<<10)))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			defer (<-reached).Close()
			now, cancel := context.WithCancel(t.Context())
			cancel()
			drained := make(chan struct{})
			go func() {
				m.a.Drain(now)
				close(drained)
			}()
			select {
			case <-drained:
			case <-time.After(10 * time.Second):
				t.Fatal("the drain waits for the copy")
			}
		})
	}
}
