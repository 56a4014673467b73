package upstream

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// silent dials peers that take everything and say nothing.
func silent(context.Context, string, netip.Addr) (net.Conn, error) {
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	return near, nil
}

// An HTTP/2 connection that has grown too old while it stood idle makes room
// for the next: under a limit of one, requests waited for it until the idle
// sweep.
func TestAgedConnectionMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Resolver: &names{}, Dial: silent})
		defer s.Close()
		b, age := ir.DefaultBreaker(), ir.Duration(time.Minute)
		b.MaxConnections = 1
		c := put(t, s, ir.Cluster{Breaker: b, HTTP: ir.HTTPUpstream{Protocol: ir.HTTP2, MaxConnectionDuration: age}}, plain(1)...)
		for range 2 {
			start := time.Now()
			up, err := c.Acquire(c.Hosts()[0], Want{Deadline: start.Add(5 * time.Second)})
			if err != nil {
				t.Fatal(err)
			}
			if up.Reused() || time.Since(start) > 0 {
				t.Errorf("reused %v, after %v", up.Reused(), time.Since(start))
			}
			up.Release(time.Now())
			wait(2 * time.Minute)
		}
	})
}
