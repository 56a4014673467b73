//go:build !race

package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	goruntime "runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/wire"
)

// everythingOn gives the pair what a real one has: routes with conditions and
// weights, retries, a timeout, header operations, limits, outlier detection,
// policies with principals and paths, the access log and the metrics.
func everythingOn(app string) func(m *mesh) {
	return func(m *mesh) {
		r := m.snapA.Routes[0].VirtualHosts[0]
		retry := &ir.RetryPolicy{Attempts: 2, On: []string{"connect-failure", "refused-stream", "unavailable"}, PreviousHosts: true, HostAttempts: 5}
		forward := *r.Routes[0].Forward
		forward.Retry, forward.Timeout = retry, ir.Duration(10*time.Second)
		forward.Clusters = []ir.WeightedCluster{{Name: "worker", Weight: 50}, {Name: "worker", Weight: 50}}
		canary := ir.Match{Kind: ir.Exact, Value: "canary"}
		path := ir.Match{Kind: ir.Prefix, Value: "/api"}
		r.Routes = []*ir.Route{
			{Name: "canary", Match: ir.RouteMatch{Headers: []ir.HeaderMatch{{Name: "x-version", Value: canary}}}, Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: "nobody"}}}},
			{Name: "api", Match: ir.RouteMatch{Path: &path}, Forward: &forward,
				Request:  ir.HeaderOps{Set: []ir.Header{{Name: "x-routed", Value: "yes"}}},
				Response: ir.HeaderOps{Add: []ir.Header{{Name: "x-served", Value: "yes"}}}},
		}
		c := m.snapA.Clusters[0]
		c.Breaker.MaxConnections, c.Breaker.MaxRequests = 100, 1000
		c.Outlier = &ir.Outlier{Consecutive5xx: 5, Interval: ir.Duration(10 * time.Second), BaseEjection: ir.Duration(30 * time.Second), MaxEjection: ir.Duration(300 * time.Second), MaxEjectionPercent: 100}
		leaf := func(attr ir.Attr, kind ir.MatchKind, value string) *ir.Expr {
			return &ir.Expr{Op: ir.Leaf, Attr: attr, Value: ir.Match{Kind: kind, Value: value}}
		}
		m.snapB.Listeners[0].Chains[0].Filters = []ir.Filter{
			{RBAC: &ir.RBAC{Action: ir.Deny, Policies: []ir.Policy{{Name: "deny", Permission: leaf(ir.AttrPath, ir.Prefix, "/admin"), Principal: &ir.Expr{Op: ir.Any}}}}},
			{RBAC: &ir.RBAC{Action: ir.Allow, Policies: []ir.Policy{{Name: "allow",
				Permission: &ir.Expr{Op: ir.And, Args: []*ir.Expr{leaf(ir.AttrMethod, ir.Exact, "GET"), leaf(ir.AttrPath, ir.Prefix, "/api")}},
				Principal:  leaf(ir.AttrPrincipal, ir.Exact, web)}}}},
		}
		m.snapB.Clusters[0].Endpoints.Endpoints[0].Address = app
	}
}

// tlsAlone is what crypto/tls itself allocates for a request and its answer: a
// Conn that waits for a record puts the count of bytes it waits for on the heap.
func tlsAlone(t testing.TB, n int, request, answer []byte) uint64 {
	t.Helper()
	ca := newCA(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, worker)}, ClientAuth: tls.RequireAnyClientCert}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		raw, err := l.Accept()
		if err != nil {
			return
		}
		defer raw.Close()
		c, b := tls.Server(wire.Wrap(raw), server), make([]byte, 16<<10)
		for {
			if _, err := io.ReadFull(c, b[:len(request)]); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, b := tls.Client(wire.Wrap(raw), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{ca.issue(t, web)}}), make([]byte, len(answer))
	ask := func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
	}
	made := allocations(n, ask)
	raw.Close()
	<-ended
	return made
}

// allocations counts those of the whole process while n calls run, after some
// that bring everything to its size.
func allocations(n int, f func()) uint64 {
	for range 300 {
		f()
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties what is pooled
	goruntime.GC()
	for range 50 {
		f()
	}
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	for range n {
		f()
	}
	goruntime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

// A request through both proxies of a pair, with mutual TLS between them and
// everything on, allocates nothing once the connections have carried a few:
// only crypto/tls does, one object for each of the two records, as it does
// alone. (-memprofile with -memprofilerate=1 names whoever breaks this.)
func TestPairDoesNotAllocate(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 1024)
	answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"), body...)
	m := newMesh(t, nil, everythingOn(rawServer(t, answer)))
	c, err := net.Dial("tcp", m.url[len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReaderSize(c, 8<<10)
	request := []byte("GET /api/items?id=7 HTTP/1.1\r\nHost: worker.shop:8000\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
	ask := func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		for first := true; ; first = false {
			line, err := in.ReadSlice('\n')
			if err != nil || first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
				t.Fatalf("%q, %v", line, err)
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := in.Discard(len(body)); err != nil {
			t.Fatal(err)
		}
	}
	const n = 2000
	const beside = n / 20 // the access log is written beside the requests: some allocations, but not with every request
	floor := tlsAlone(t, n, request, answer)
	if floor > 2*n+beside {
		t.Errorf("crypto/tls alone made %d allocations for %d requests", floor, n)
	}
	if got := allocations(n, ask); got > floor+beside {
		t.Errorf("%d requests made %d allocations, crypto/tls alone makes %d", n, got, floor)
	}
	if got := metric(m.b, "istio_requests_total", `response_code="200"`, `connection_security_policy="mutual_tls"`); got != "2350" {
		t.Errorf("%s requests are counted", got)
	}
	m.logA.wait(t, "/api/items")
	m.logB.wait(t, "/api/items")
}
