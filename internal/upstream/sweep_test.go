package upstream

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Another idle timeout counts for the connections that idle already, whatever
// the old one was; 0 keeps them.
func TestIdleTimeoutChanges(t *testing.T) {
	for _, protocol := range []string{ir.HTTP1, ir.HTTP2} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{Resolver: &names{}, Dial: silent})
				defer s.Close()
				with := func(idle time.Duration) *Cluster {
					d := ir.Duration(idle)
					return put(t, s, ir.Cluster{HTTP: ir.HTTPUpstream{Protocol: protocol, IdleTimeout: &d}}, plain(1)...)
				}
				c := with(time.Minute)
				up, err := c.Acquire(c.Hosts()[0], Want{})
				if err != nil {
					t.Fatal(err)
				}
				up.Release(time.Now())
				open := func(want int64) {
					t.Helper()
					synctest.Wait()
					if n := c.connections.Load(); n != want {
						t.Fatalf("%d connections, want %d", n, want)
					}
				}
				with(0)
				wait(24 * time.Hour)
				open(1)
				with(365 * 24 * time.Hour)
				with(5 * time.Second)
				wait(10 * time.Second)
				open(0)
			})
		})
	}
}

// Whoever is first to idle arms the sweep, also when another is at the same
// time.
func TestSweepIsArmed(t *testing.T) {
	c := cluster(t, ir.Cluster{}, listening(t))
	for range 20000 {
		var both [2]Carrier
		for i := range both {
			var err error
			if both[i], err = acquire(c); err != nil {
				t.Fatal(err)
			}
		}
		var release sync.WaitGroup
		for _, up := range both {
			release.Go(func() { up.Release(time.Now()) })
		}
		release.Wait()
		c.mu.Lock()
		armed := c.sweeper
		c.sweeper = nil
		c.mu.Unlock()
		if armed == nil {
			t.Fatal("two connections idle, and nobody will close them")
		}
		armed.Stop()
	}
}
