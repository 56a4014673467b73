package upstream

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// listening is an endpoint that accepts connections and says nothing.
func listening(t *testing.T) ir.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return ir.Endpoint{Address: l.Addr().String()}
}

func acquire(c *Cluster) (Carrier, error) {
	return c.AcquireFor(Source{}, c.Hosts()[0], Want{Deadline: time.Now().Add(10 * time.Second)})
}

// stat reads one of the cluster's metrics, as a scrape would.
func stat(c *Cluster, name string) string {
	var e telemetry.Exposition
	c.collect(&e)
	var b strings.Builder
	_, _ = e.WriteTo(&b)
	for _, line := range strings.Split(b.String(), "\n") {
		if strings.HasPrefix(line, "envoy_cluster_"+name+"{") {
			return line[strings.LastIndexByte(line, ' ')+1:]
		}
	}
	return "missing"
}

func checkStats(t *testing.T, c *Cluster, want map[string]string) {
	t.Helper()
	for name, v := range want {
		if got := stat(c, name); got != v {
			t.Errorf("%s is %s, want %s", name, got, v)
		}
	}
}

// The gauges say what the breaker does, at every step.
func TestConnectionBreaker(t *testing.T) {
	b := ir.DefaultBreaker()
	b.MaxConnections, b.MaxPendingRequests = 1, 1
	c := cluster(t, ir.Cluster{Breaker: b}, listening(t))
	checkStats(t, c, map[string]string{"circuit_breakers_default_cx_open": "0", "circuit_breakers_default_remaining_cx": "1", "circuit_breakers_default_rq_pending_open": "0"})
	first, err := acquire(c)
	if err != nil {
		t.Fatal(err)
	}
	checkStats(t, c, map[string]string{"upstream_cx_active": "1", "circuit_breakers_default_cx_open": "1", "circuit_breakers_default_remaining_cx": "0"})
	second := make(chan error, 1)
	var got Carrier
	go func() {
		var err error
		got, err = acquire(c)
		second <- err
	}()
	for c.pending.Load() == 0 { // it queues
		runtime.Gosched()
	}
	checkStats(t, c, map[string]string{"upstream_rq_pending_active": "1", "circuit_breakers_default_rq_pending_open": "1", "circuit_breakers_default_remaining_pending": "0"})
	if _, err := acquire(c); !errors.Is(err, ErrOverflow) {
		t.Errorf("the third request: %v", err)
	}
	checkStats(t, c, map[string]string{"upstream_rq_pending_overflow": "1"})
	first.Release(time.Now())
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if !got.Reused() {
		t.Error("the second request got a connection of its own")
	}
	got.Close()
	checkStats(t, c, map[string]string{"upstream_cx_active": "0", "upstream_rq_pending_active": "0", "circuit_breakers_default_cx_open": "0"})
}

func TestRequestAndRetryBreakers(t *testing.T) {
	b := ir.DefaultBreaker()
	b.MaxRequests, b.MaxRetries = 2, 1
	c := cluster(t, ir.Cluster{Breaker: b}, plain(1)...)
	for i, want := range []bool{true, true, false} {
		if got := c.BeginRequest(); got != want {
			t.Errorf("request %d: %v, want %v", i, got, want)
		}
	}
	checkStats(t, c, map[string]string{"upstream_rq_active": "2", "circuit_breakers_default_rq_open": "1", "circuit_breakers_default_remaining_rq": "0", "upstream_rq_pending_overflow": "1"})
	if !c.BeginRetry() || c.BeginRetry() {
		t.Error("one retry may be in flight")
	}
	checkStats(t, c, map[string]string{"circuit_breakers_default_rq_retry_open": "1", "upstream_rq_retry": "1", "upstream_rq_retry_overflow": "1"})
	c.EndRetry()
	c.EndRequest()
	checkStats(t, c, map[string]string{"upstream_rq_active": "1", "circuit_breakers_default_rq_open": "0", "circuit_breakers_default_remaining_retries": "1"})
}

func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		defer s.Close()
		retries := func(c *Cluster) (n int) {
			for c.BeginRetry() {
				n++
			}
			for range n {
				c.EndRetry()
			}
			return n
		}
		budget := &ir.RetryBudget{Percent: 20, MinConcurrency: 3}
		c := put(t, s, ir.Cluster{RetryBudget: budget}, plain(1)...)
		if got := retries(c); got != 3 {
			t.Errorf("%d retries without requests, want the minimum of 3", got)
		}
		for range 25 {
			c.BeginRequest()
		}
		if got := retries(c); got != 5 {
			t.Errorf("%d retries beside 25 requests, want 5", got)
		}
		for range 25 {
			c.EndRequest()
		}
		budget = &ir.RetryBudget{Percent: 20, MinConcurrency: 1, Interval: ir.Duration(10 * time.Second)}
		c = put(t, s, ir.Cluster{RetryBudget: budget}, plain(1)...)
		for range 40 {
			c.BeginRequest()
			c.EndRequest()
		}
		if got := retries(c); got != 8 {
			t.Errorf("%d retries after 40 requests of the interval, want 8", got)
		}
		wait(11 * time.Second)
		if got := retries(c); got != 1 {
			t.Errorf("%d retries when the interval is over, want 1", got)
		}
	})
}

func TestConnectionsEnd(t *testing.T) {
	never := ir.Duration(0)
	for name, tt := range map[string]struct {
		http   ir.HTTPUpstream
		age    time.Duration
		reused bool
	}{
		"reused":                 {ir.HTTPUpstream{}, 0, true},
		"one request each":       {ir.HTTPUpstream{MaxRequestsPerConn: 1}, 0, false},
		"two requests":           {ir.HTTPUpstream{MaxRequestsPerConn: 2}, 0, true},
		"too old":                {ir.HTTPUpstream{MaxConnectionDuration: ir.Duration(time.Minute)}, time.Minute, false},
		"idle time switched off": {ir.HTTPUpstream{IdleTimeout: &never}, 0, true},
	} {
		c := cluster(t, ir.Cluster{HTTP: tt.http}, listening(t))
		first, err := acquire(c)
		if err != nil {
			t.Fatal(err)
		}
		first.Release(time.Now().Add(tt.age))
		second, err := acquire(c)
		if err != nil {
			t.Fatal(err)
		}
		if second.Reused() != tt.reused {
			t.Errorf("%s: reused %v", name, second.Reused())
		}
		if never := c.sweeper == nil; never != (name == "idle time switched off") && tt.reused {
			t.Errorf("%s: a sweep is armed: %v", name, !never)
		}
		second.Close()
	}
}

// The PROXY protocol comes before anything else, and its connection is used by
// one request only.
func TestProxyProtocol(t *testing.T) {
	from, to := netip.MustParseAddrPort("192.0.2.7:1234"), netip.MustParseAddrPort("192.0.2.9:80")
	v6 := Source{netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2")}
	for _, tt := range []struct {
		version string
		source  Source
		want    string
	}{
		{"V1", Source{from, to}, "PROXY TCP4 192.0.2.7 192.0.2.9 1234 80\r\n"},
		{"V1", v6, "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"},
		{"V1", Source{from, v6.To}, "PROXY UNKNOWN\r\n"},
		{"V2", Source{from, to}, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x09\x04\xd2\x00\x50"},
		{"V2", Source{}, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				got <- err.Error()
				return
			}
			defer conn.Close()
			b := make([]byte, len(tt.want))
			_, _ = io.ReadFull(conn, b)
			got <- string(b)
		}()
		c := cluster(t, ir.Cluster{ProxyProtocol: tt.version}, ir.Endpoint{Address: l.Addr().String()})
		up, err := c.AcquireFor(tt.source, c.Hosts()[0], Want{Deadline: time.Now().Add(10 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if g := <-got; g != tt.want {
			t.Errorf("%s: %q, want %q", tt.version, g, tt.want)
		}
		up.Release(time.Now())
		if n := c.connections.Load(); n != 0 {
			t.Errorf("%d connections stay in the pool", n)
		}
		l.Close()
	}
}
