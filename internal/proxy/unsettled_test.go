package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// An upgrade has to wait for the SETTINGS of an upstream that speaks HTTP/2. One
// that never sends them has not let itself be connected to in time.
func TestUpgradeToAnUpstreamWithoutSettings(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() {
		for {
			c, err := mute.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, c)
		}
	}()
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		c := m.snapB.Clusters[0]
		c.Endpoints.Endpoints[0].Address = mute.Addr().String()
		c.HTTP.Protocol = ir.HTTP2
		c.ConnectTimeout = ir.Duration(20 * time.Millisecond)
	})
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
