//go:build !race

package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/wire"
)

// What an idle mutual TLS connection holds beyond crypto/tls's own state: ours,
// with the stack of the goroutine that waits. (docs/performance.md has the
// figures of both.)
const idleBeyondTLS = 5 << 10

func TestIdleConnectionMemory(t *testing.T) {
	const n = 300
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	m := newMesh(t, nil, func(m *mesh) {
		m.options = func(o *Options) { o.RestAfter = 5 * time.Millisecond }
		m.snapB.Clusters[0].Endpoints = &ir.EndpointSet{Cluster: "inbound|8000||", Endpoints: []ir.Endpoint{{Address: rawServer(t, answer)}}}
	})
	ca := newCA(t) // the server's side of the floor
	alone, rested := tlsOnly(t, ca, answer), int64(0)
	var beyond int64
	for range 3 { // what other tests leave behind may end meanwhile
		floor := holding(t, n, func() {}, alone, ca)
		rested += n
		ours := holding(t, n, func() { m.awaitRestOf(t, m.b, rested) }, m.snapA.EndpointSet("worker").Endpoints[0].Address, m.ca)
		t.Logf("with its client: %d bytes by crypto/tls alone, %d through the proxy", floor/n, ours/n)
		if beyond = (ours - floor) / n; beyond <= idleBeyondTLS {
			return
		}
	}
	t.Errorf("an idle connection holds %d bytes more than with crypto/tls alone, want at most %d", beyond, idleBeyondTLS)
}

// tlsOnly is a server of crypto/tls and nothing else: it answers one request on
// each connection and keeps it, without a goroutine.
func tlsOnly(t *testing.T, ca *testCA, answer []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, worker)}, MinVersion: tls.VersionTLS13, NextProtos: []string{"istio"}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool}
	var kept []*tls.Conn
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		request := make([]byte, 4<<10)
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			c := tls.Server(wire.Wrap(raw), conf)
			kept = append(kept, c)
			if _, err := c.Read(request); err == nil {
				_, _ = c.Write(answer)
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
		for _, c := range kept {
			c.Close()
		}
	})
	return l.Addr().String()
}

// holding is how many bytes of heap and stacks n connections hold together with
// their clients, after a request each.
func holding(t *testing.T, n int, settle func(), address string, ca *testCA) int64 {
	t.Helper()
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, Certificates: []tls.Certificate{ca.issue(t, web)}}
	open := func() net.Conn {
		c, err := tls.Dial("tcp", address, conf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: server\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return c
	}
	first := open() // what is needed once
	defer first.Close()
	before := held()
	all := make([]net.Conn, n)
	for i := range all {
		all[i] = open()
	}
	settle()
	after := held()
	for _, c := range all {
		c.Close()
	}
	goruntime.KeepAlive(all)
	return after - before
}

// held is what is reachable, and the stacks. Unlike memory it leaves out what
// lies free between: other tests' garbage would hide what is looked for.
func held() int64 {
	goruntime.GC()
	goruntime.GC()
	var s goruntime.MemStats
	goruntime.ReadMemStats(&s)
	return int64(s.HeapAlloc + s.StackInuse)
}
