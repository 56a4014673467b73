package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// An HTTP/1.1 caller that is answered before the end of what it sends is told
// that its connection closes, may send it all, and can read to the end: to
// close under it would be a reset, which takes along what it has not read.
func TestAnsweredWhileSending(t *testing.T) {
	done := make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(413)
		http.NewResponseController(w).Flush()
		<-done
	}), nil)
	t.Cleanup(func() { close(done) })
	for name, request := range map[string]string{
		"413 by the application": "POST / HTTP/1.1\r\nHost: worker\r\nContent-Length: %d\r\n\r\n",
		"431 by the proxy":       "GET / HTTP/1.1\r\nX: ",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			rest := strings.Repeat("x", 12<<20) // more than the sockets on the way hold
			if strings.Contains(request, "%d") {
				request = fmt.Sprintf(request, len(rest))
			}
			if _, err := io.WriteString(c, request+rest); err != nil {
				t.Error(err)
			}
			b, err := io.ReadAll(c)
			got := string(b)
			if err != nil || !strings.HasPrefix(got, "HTTP/1.1 "+name[:3]) || !strings.Contains(got, "connection: close\r\n") {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}
