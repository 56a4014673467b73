package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hostileConns is how many hostile connections each test opens; TULLE_HOSTILE
// sets another number (make hostile).
func hostileConns() int {
	if n, err := strconv.Atoi(os.Getenv("TULLE_HOSTILE")); err == nil && n > 0 {
		return n
	}
	return 40
}

// attack is one kind of hostile peer. It is called once for each connection and
// returns when the harm is in place; what it leaves behind ends with the
// connection.
type attack struct {
	name string
	do   func(c net.Conn) error
	// perConn bounds the heap and stacks of the mesh (both proxies, application)
	// for each hostile connection.
	perConn int64
	reaches bool // the application, over a connection of its own on each hop
	// counted checks that the proxy has noticed, ended the same when all its
	// connections are over; either may be nil.
	counted, ended func(m *mesh, n int) error
	most           int // connections, however many are asked for; 0: as many
}

func open(m *mesh, n int) error {
	if got := m.a.conns.count(); got < n {
		return fmt.Errorf("%d connections are counted, want at least %d", got, n)
	}
	return nil
}

func sends(s string) func(net.Conn) error {
	return func(c net.Conn) error {
		_, err := io.WriteString(c, s)
		return err
	}
}

// until writes s again and again until the peer takes no more or closes.
func until(head, s string, limit int) func(net.Conn) error {
	return func(c net.Conn) error {
		if _, err := io.WriteString(c, head); err != nil {
			return err
		}
		b := bytes.Repeat([]byte(s), 64<<10/len(s))
		c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for sent := 0; sent < limit; sent += len(b) {
			if _, err := c.Write(b); err != nil {
				return nil // full, or refused: both are what should happen
			}
		}
		return nil
	}
}

var attacks = []attack{
	{name: "idle", do: func(net.Conn) error { return nil }, perConn: 24 << 10, counted: open},
	{name: "slow heads", do: sends("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "), perConn: 48 << 10, counted: open},
	{name: "slow bodies", reaches: true, do: sends("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nslow"), perConn: 160 << 10, counted: open},
	{name: "slow chunks", reaches: true, do: sends("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nslow"), perConn: 160 << 10, counted: open},
	{name: "slow readers", reaches: true, do: sends("GET /large HTTP/1.1\r\nHost: x\r\n\r\n"), perConn: 256 << 10, counted: open},
	{name: "header bombs", do: until("GET / HTTP/1.1\r\nHost: x\r\n", "X: "+strings.Repeat("a", 1000)+"\r\n", 10<<20), perConn: 256 << 10, counted: func(m *mesh, n int) error {
		if got := m.a.stats.protocolErrors.Value(); got < int64(n) {
			return fmt.Errorf("%d protocol errors are counted, want %d", got, n)
		}
		return nil
	}},
	{name: "huge bodies to an upstream that does not read", reaches: true, do: until("POST /stuck HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", strings.Repeat("b", 1024), 64<<20), perConn: 512 << 10, counted: open},
}

// TestHostilePeers lets many connections of one kind loose on an outbound
// listener and looks at what the others get meanwhile and at memory.
func TestHostilePeers(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { a.run(t, hops{"http1", "http1", "http1"}, hostileConns()) })
	}
	for _, a := range http2Attacks {
		t.Run(a.name, func(t *testing.T) { a.run(t, overHTTP2, hostileConns()) })
	}
}

func (a *attack) run(t *testing.T, over hops, n int) {
	if a.most > 0 {
		n = min(n, a.most)
	}
	files := 1 // in this process, for each connection
	if a.reaches {
		files = 5
	}
	n = min(n, affordable(t, files))
	stuck, large := make(chan struct{}), make([]byte, 64<<10)
	m, others := newMeshOver(t, over, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			io.Copy(w, r.Body)
		case "/large":
			for range 1024 {
				if _, err := w.Write(large); err != nil {
					return
				}
			}
		case "/stuck":
			select {
			case <-stuck:
			case <-r.Context().Done():
			}
		default:
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		}
	}), func(m *mesh) {
		for _, c := range append(m.snapA.Clusters, m.snapB.Clusters...) {
			c.Breaker.MaxConnections, c.Breaker.MaxRequests = 1<<20, 1<<20
			c.Breaker.MaxPendingRequests = 1 << 20
		}
	})
	t.Cleanup(func() { close(stuck) })
	m.serveOthers(t, others, 1) // the pair is warm
	before := memory()
	leave := a.begin(t, strings.TrimPrefix(m.url, "http://"), n)
	defer leave()
	p50, p99 := m.serveOthers(t, others, 300)
	grown := memory() - before
	t.Logf("hostile: %-46s %6d connections, %7.1f KB each, others p50 %v p99 %v", a.name, n, float64(grown)/float64(n)/1024, p50, p99)
	if limit := a.perConn*int64(n) + 16<<20; grown > limit {
		t.Errorf("memory has grown by %d bytes, more than %d", grown, limit)
	}
	if a.counted != nil {
		if err := a.counted(m, n); err != nil {
			t.Error(err)
		}
	}
	if a.ended != nil {
		leave()
		others.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if !m.a.conns.wait(ctx) {
			t.Error("connections live on without their peers")
		}
		if err := a.ended(m, n); err != nil {
			t.Error(err)
		}
	}
}

// serveOthers makes n well-behaved requests, every second one with a body;
// every one of them must be answered.
func (m *mesh) serveOthers(t *testing.T, client *http.Client, n int) (p50, p99 time.Duration) {
	t.Helper()
	body := strings.Repeat("other ", 2000)
	var all []time.Duration
	for i := range n {
		start := time.Now()
		method, sent := "GET", ""
		if i%2 == 1 {
			method, sent = "POST", body
		}
		req, err := http.NewRequestWithContext(t.Context(), method, m.url+"/", strings.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("somebody else's request %d: %v", i, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(got) != sent {
			t.Fatalf("somebody else's request %d: %s, %d bytes, %v", i, resp.Status, len(got), err)
		}
		all = append(all, time.Since(start))
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100]
}

// memory is heap and stacks in use after a collection.
func memory() int64 {
	goruntime.GC()
	goruntime.GC()
	var s goruntime.MemStats
	goruntime.ReadMemStats(&s)
	return int64(s.HeapInuse + s.StackInuse)
}
