package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	// perConn bounds the heap and stacks of the whole test (attackers, both
	// proxies, application) for each hostile connection.
	perConn int64
	// counted checks that the proxy has noticed.
	counted func(m *mesh, n int) error
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
	{"idle", func(net.Conn) error { return nil }, 24 << 10, open},
	{"slow heads", sends("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "), 48 << 10, open},
	{"slow bodies", sends("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nslow"), 160 << 10, open},
	{"slow chunks", sends("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nslow"), 160 << 10, open},
	{"slow readers", sends("GET /large HTTP/1.1\r\nHost: x\r\n\r\n"), 512 << 10, open},
	{"header bombs", until("GET / HTTP/1.1\r\nHost: x\r\n", "X: "+strings.Repeat("a", 1000)+"\r\n", 10<<20), 256 << 10, func(m *mesh, n int) error {
		if got := m.a.stats.protocolErrors.Value(); got < int64(n) {
			return fmt.Errorf("%d protocol errors are counted, want %d", got, n)
		}
		return nil
	}},
	{"huge bodies to an upstream that does not read", until("POST /stuck HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", strings.Repeat("b", 1024), 64<<20), 512 << 10, open},
}

// TestHostilePeers lets many connections of one kind loose on an outbound
// listener and looks at what the others get meanwhile and at memory.
func TestHostilePeers(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { a.run(t, hostileConns()) })
	}
}

func (a *attack) run(t *testing.T, n int) {
	stuck := make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			io.Copy(w, r.Body)
		case "/large":
			b := make([]byte, 64<<10)
			for range 1024 {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		case "/stuck":
			select {
			case <-stuck:
			case <-r.Context().Done():
			}
		}
	}), func(m *mesh) {
		for _, c := range append(m.snapA.Clusters, m.snapB.Clusters...) {
			c.Breaker.MaxConnections, c.Breaker.MaxRequests = 1<<20, 1<<20
		}
	})
	t.Cleanup(func() { close(stuck) })
	m.get("/") // the pair is warm
	before := memory()
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for i := range conns {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = c
			if err := a.do(c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p50, p99 := m.serveOthers(t)
	grown := memory() - before
	t.Logf("hostile: %-46s %6d connections, %7.1f KB each, others p50 %v p99 %v", a.name, n, float64(grown)/float64(n)/1024, p50, p99)
	if limit := a.perConn*int64(n) + 16<<20; grown > limit {
		t.Errorf("memory has grown by %d bytes, more than %d", grown, limit)
	}
	if err := a.counted(m, n); err != nil {
		t.Error(err)
	}
}

// serveOthers makes well-behaved requests; every one of them must be answered.
func (m *mesh) serveOthers(t *testing.T) (p50, p99 time.Duration) {
	t.Helper()
	var all []time.Duration
	for range 300 {
		start := time.Now()
		if resp, _ := m.get("/"); resp.StatusCode != 200 {
			t.Fatalf("somebody else's request: %s", resp.Status)
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
