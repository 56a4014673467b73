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

// A connection that has grown too old while it stood idle carries no more
// requests and makes room for the next: under a limit of one, they waited for it
// until the idle sweep.
func TestAgedConnectionMakesRoom(t *testing.T) {
	for _, protocol := range []string{ir.HTTP1, ir.HTTP2} {
		synctest.Test(t, func(t *testing.T) {
			s := New(Options{Resolver: &names{}, Dial: silent})
			defer s.Close()
			b, age := ir.DefaultBreaker(), ir.Duration(time.Minute)
			b.MaxConnections = 1
			c := put(t, s, ir.Cluster{Breaker: b, HTTP: ir.HTTPUpstream{Protocol: protocol, MaxConnectionDuration: age}}, plain(1)...)
			for range 2 {
				start := time.Now()
				up, err := c.Acquire(c.Hosts()[0], Want{Deadline: start.Add(5 * time.Second)})
				if err != nil {
					t.Fatal(protocol, err)
				}
				if up.Reused() || time.Since(start) > 0 {
					t.Errorf("%s: reused %v, after %v", protocol, up.Reused(), time.Since(start))
				}
				up.Release(time.Now())
				wait(2 * time.Minute)
			}
		})
	}
}

// A host may leave while a request connects to it: that request is served, and
// its connection ends with it, however its host left.
func TestHostLeavesDuringDial(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, s *Set, c ir.Cluster){
		"host":    func(t *testing.T, s *Set, c ir.Cluster) { put(t, s, c, ir.Endpoint{Address: "10.0.0.9:80"}) },
		"cluster": func(_ *testing.T, s *Set, _ ir.Cluster) { s.Close() },
	} {
		for _, protocol := range []string{ir.HTTP1, ir.HTTP2} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dialling, dial := make(chan struct{}), make(chan struct{})
					s := New(Options{Resolver: &names{}, Dial: func(ctx context.Context, a string, b netip.Addr) (net.Conn, error) {
						close(dialling)
						<-dial
						return silent(ctx, a, b)
					}})
					defer s.Close()
					conf := ir.Cluster{HTTP: ir.HTTPUpstream{Protocol: protocol}}
					c := put(t, s, conf, plain(1)...)
					go func() {
						<-dialling
						leave(t, s, conf)
						close(dial)
					}()
					up, err := c.Acquire(c.Hosts()[0], Want{})
					if err != nil {
						t.Fatal(err)
					}
					up.Release(time.Now())
					synctest.Wait()
					if n := c.connections.Load(); n != 0 {
						t.Errorf("%d connections are left", n)
					}
				})
			})
		}
	}
}

// An original destination that made room for others is not pooled: nobody would
// find its connections again, nor close them.
func TestForgottenDestinationKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Resolver: &names{}, Dial: silent})
		defer s.Close()
		c := put(t, s, ir.Cluster{Type: ir.OriginalDst})
		at := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)
		}
		var all []*Host
		for i := range 2 * maxDynamicHosts {
			all = append(all, c.Pick(at(i), nil, 0))
		}
		for _, h := range all {
			up, err := c.Acquire(h, Want{})
			if err != nil {
				t.Fatal(err)
			}
			up.Release(time.Now())
		}
		if n := c.connections.Load(); n > maxDynamicHosts {
			t.Errorf("%d connections to %d destinations", n, maxDynamicHosts)
		}
	})
}
