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
)

// A drain that has run out of time cuts off what waits for an upstream, for its
// head or for more of its body, at once: neither is given the minutes that a
// standing response may take.
func TestDrainCutsOffWaits(t *testing.T) {
	for _, path := range []string{"/head", "/body"} {
		t.Run(path[1:], func(t *testing.T) {
			reached := make(chan struct{}, 1)
			m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/body" {
					io.WriteString(w, "half")
					w.(http.Flusher).Flush()
				}
				reached <- struct{}{}
				<-r.Context().Done()
			}), nil)
			c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			<-reached
			if path == "/body" { // the proxy has begun to relay
				if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			now, cancel := context.WithCancel(t.Context())
			cancel()
			start := time.Now()
			m.a.Drain(now)
			if took := time.Since(start); took > time.Second { // it used to take until the next look, up to 3 s, and 5 min
				t.Errorf("the drain took %v", took)
			}
			m.logA.wait(t, path)
			if log := m.logA.String(); !strings.Contains(log, " DC ") {
				t.Errorf("want the flag DC: %s", log)
			}
		})
	}
}
