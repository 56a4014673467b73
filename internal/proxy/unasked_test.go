package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// An upgrade that nobody asked for is no answer: it opened a tunnel, and what
// the caller sent next on its connection went past every policy.
func TestUnaskedUpgrade(t *testing.T) {
	l := rawServer(t, []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) { m.snapB.Clusters[0].Endpoints.Endpoints[0].Address = l })
	client := &http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(m.url + "/unasked")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 502 {
		t.Error(resp.Status)
	}
	if log := m.logB.wait(t, "/unasked"); !strings.Contains(log, " UPE ") {
		t.Error(log)
	}
}
