package upstream

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// names answers from a list that the test changes.
type names struct {
	mu   sync.Mutex
	list map[string]answer
}

type answer struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

func (n *names) set(name string, a answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list[name] = a
}

func (n *names) Resolve(_ context.Context, name string) ([]netip.Addr, time.Duration, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.list[name]
	if !ok {
		return nil, 0, errors.New("no such name")
	}
	return a.addrs, a.ttl, a.err
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{list: map[string]answer{"db": {addrs: addrs("10.1.0.2", "10.1.0.1"), ttl: 20 * time.Second}}}
		s := New(Options{Resolver: n})
		defer s.Close()
		c := put(t, s, ir.Cluster{Type: ir.StrictDNS, LB: ir.RoundRobin, DNSRefresh: ir.Duration(7 * time.Second)}, ir.Endpoint{Address: "db:5432"})
		hosts := func(want ...string) {
			t.Helper()
			synctest.Wait()
			got := c.Hosts()
			if len(got) != len(want) {
				t.Fatalf("%d hosts, want %v", len(got), want)
			}
			for i, h := range got {
				if h.Address != want[i] {
					t.Errorf("host %s, want %s", h.Address, want[i])
				}
			}
		}
		if h := c.Pick(netip.AddrPort{}, nil, 0); h == nil { // before anything was resolved
			t.Fatal("the first request does not wait for the name")
		}
		hosts("10.1.0.1:5432", "10.1.0.2:5432")
		kept := c.Hosts()[0]
		n.set("db", answer{addrs: addrs("10.1.0.1"), ttl: 20 * time.Second})
		wait(19 * time.Second)
		hosts("10.1.0.1:5432", "10.1.0.2:5432") // the TTL has not passed
		wait(2 * time.Second)
		hosts("10.1.0.1:5432")
		if c.Hosts()[0] != kept {
			t.Error("a host that stayed was replaced")
		}
		n.set("db", answer{err: errors.New("timeout")})
		wait(20 * time.Second)
		hosts("10.1.0.1:5432") // a failure keeps what is known
		n.set("db", answer{addrs: addrs("10.1.0.9"), ttl: time.Hour})
		wait(8 * time.Second) // and is repeated after DNSRefresh
		hosts("10.1.0.9:5432")
	})
}

func TestLogicalDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{list: map[string]answer{"db": {addrs: addrs("10.1.0.2", "10.1.0.1"), ttl: time.Second}}}
		s := New(Options{Resolver: n})
		defer s.Close()
		c := put(t, s, ir.Cluster{Type: ir.LogicalDNS, LB: ir.RoundRobin}, ir.Endpoint{Address: "db:5432"})
		one := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := c.Hosts(); len(got) != 1 || got[0].Address != want {
				t.Errorf("hosts %v, want %s", got[0].Address, want)
			}
		}
		one("10.1.0.1:5432")
		n.set("db", answer{addrs: addrs("10.1.0.0", "10.1.0.1"), ttl: time.Second})
		wait(1500 * time.Millisecond)
		one("10.1.0.1:5432") // still an address of the name
		n.set("db", answer{addrs: addrs("10.1.0.3"), ttl: time.Second})
		wait(1500 * time.Millisecond)
		one("10.1.0.3:5432")
	})
}

// A name that has no addresses says nothing of how long that holds: it is asked
// for again after DNSRefresh, not all the time.
func TestNameWithoutAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{list: map[string]answer{"db": {}}}
		s := New(Options{Resolver: n})
		defer s.Close()
		c := put(t, s, ir.Cluster{Type: ir.StrictDNS, DNSRefresh: ir.Duration(60 * time.Second)}, ir.Endpoint{Address: "db:5432"})
		wait(59 * time.Second)
		if got := c.stats.dnsAttempts.Value(); got != 1 {
			t.Errorf("asked %d times in a minute", got)
		}
		n.set("db", answer{addrs: addrs("10.1.0.1"), ttl: time.Hour})
		wait(2 * time.Second)
		if got := c.Hosts(); len(got) != 1 {
			t.Errorf("%d hosts once it has an address", len(got))
		}
	})
}

// mute never answers for a name.
type mute struct {
	*names
	name string
}

func (s mute) Resolve(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	if name == s.name {
		<-ctx.Done()
		return nil, 0, ctx.Err()
	}
	return s.names.Resolve(ctx, name)
}

// A name that nobody answers for costs the cluster's other names nothing, at
// first or later.
func TestNamesAreResolvedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{list: map[string]answer{"db": {addrs: addrs("10.1.0.1"), ttl: 2 * time.Second}}}
		s := New(Options{Resolver: mute{n, "gone"}})
		defer s.Close()
		c := put(t, s, ir.Cluster{Type: ir.StrictDNS, DNSRefresh: ir.Duration(time.Second)}, ir.Endpoint{Address: "gone:5432"}, ir.Endpoint{Address: "db:5432"})
		start := time.Now()
		h := c.Pick(netip.AddrPort{}, nil, 0)
		if took := time.Since(start); h == nil || took > 0 {
			t.Fatalf("host %v after %s", h, took)
		}
		n.set("db", answer{addrs: addrs("10.1.0.2"), ttl: 2 * time.Second})
		wait(3 * time.Second)
		if h := c.Pick(netip.AddrPort{}, nil, 0); h.Address != "10.1.0.2:5432" {
			t.Errorf("still at %s when the TTL is over", h.Address)
		}
	})
}
