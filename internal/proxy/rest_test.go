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

// restingMesh is a pair whose connections rest at once.
func restingMesh(t *testing.T, app http.HandlerFunc) *mesh {
	return newMesh(t, app, func(m *mesh) {
		m.options = func(o *Options) { o.RestAfter = 5 * time.Millisecond }
	})
}

// awaitRest waits until each side has brought n connections to rest.
func (m *mesh) awaitRest(n int64) {
	m.t.Helper()
	m.awaitRestOf(m.t, m.a, n)
	m.awaitRestOf(m.t, m.b, n)
}

// awaitRestOf waits until one side has.
func (m *mesh) awaitRestOf(t testing.TB, p *Proxy, n int64) {
	t.Helper()
	tick, limit := time.NewTicker(time.Millisecond), time.NewTimer(10*time.Second)
	defer tick.Stop()
	defer limit.Stop()
	for p.stats.rests.Value() < n {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("rested: %d, want %d", p.stats.rests.Value(), n)
		}
	}
}

// A connection that has rested goes on where it was: same connection, same
// peer, the next request whole even where it comes in pieces.
func TestRestedConnectionsGoOn(t *testing.T) {
	m := restingMesh(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		io.WriteString(w, r.Method+" "+string(b)+" "+r.Header.Get("X-Forwarded-Client-Cert"))
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	ask := func(pieces ...string) string {
		t.Helper()
		for _, p := range pieces {
			if _, err := io.WriteString(c, p); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp.Status, err)
		}
		return string(b)
	}
	for i := range int64(3) {
		if got := ask("POST / HTTP/1.1\r\nHost: x\r\nContent-", "Length: 5\r\n\r\nhel", "lo"); !strings.HasPrefix(got, "POST hello") || !strings.Contains(got, "URI="+web) {
			t.Errorf("after %d rests: %q", i, got)
		}
		// Two requests at once: the second waits in our buffer while the first is served.
		if got := ask("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "GET ") {
			t.Errorf("%q", got)
		}
		ask()
		m.awaitRest(i + 1)
	}
	if n := m.a.stats.connections.Value(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestDrainEndsRestingConnections(t *testing.T) {
	m := restingMesh(t, func(w http.ResponseWriter, _ *http.Request) {})
	m.get("/")
	m.awaitRest(1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m.a.conns.each(func(d *downstream) { d.closeIfIdle() }) // as Drain does
	if !m.a.conns.wait(ctx) {
		t.Errorf("%d connections are left", m.a.conns.count())
	}
}

func TestTrimWaitsForEnough(t *testing.T) {
	freed := make(chan struct{}, 8)
	tr := trimmer{free: func() { freed <- struct{}{} }}
	for range trimRests - 1 {
		tr.rested()
	}
	if tr.timer != nil {
		t.Error("a trim is due before enough has become free")
	}
	tr.rested()
	tr.rested()
	if tr.timer == nil {
		t.Error("no trim is due")
	}
	tr.stop()
}
