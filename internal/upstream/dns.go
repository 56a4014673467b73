package upstream

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

const (
	defaultDNSRefresh = 5 * time.Second // without a TTL (Envoy's dns_refresh_rate)
	minDNSRefresh     = time.Second     // however short the TTL
	maxDNSRefresh     = time.Hour
	dnsTimeout        = 5 * time.Second
	maxDNSAddresses   = 256 // per name: an answer must not fill the memory
)

// Resolver looks a name up. No addresses without an error means that the name
// has none.
type Resolver interface {
	Resolve(ctx context.Context, name string) (addrs []netip.Addr, ttl time.Duration, err error)
}

// resolution is the goroutine that keeps a DNS cluster's names resolved.
type resolution struct {
	cancel  context.CancelFunc
	done    chan struct{}
	first   chan struct{} // closed when every name was looked up once
	lookups []*lookup     // the goroutine's until done
}

// resolve starts looking up the names of set. What was resolved before stays
// until there are answers, and what a name had for as long as it cannot be
// looked up: an edit of something else must not cost it its hosts.
func (c *Cluster) resolve(set *ir.EndpointSet) {
	before := c.stopResolving()
	if set == nil {
		c.setHosts(nil)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &resolution{cancel: cancel, done: make(chan struct{}), first: make(chan struct{}), lookups: lookupsOf(set, before)}
	c.mu.Lock()
	c.resolving = r
	c.mu.Unlock()
	go func() {
		defer close(r.done)
		c.keepResolved(ctx, r)
	}()
}

// stopResolving waits for the goroutine's end and returns its last answers.
func (c *Cluster) stopResolving() []*lookup {
	c.mu.Lock()
	r := c.resolving
	c.resolving = nil
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel()
	<-r.done
	return r.lookups
}

// awaitResolved waits for the first answers: a cluster that was configured a
// moment ago has no hosts yet, and a caller should not have to know. It reports
// whether looking again makes sense.
func (c *Cluster) awaitResolved() bool {
	c.mu.Lock()
	r := c.resolving
	c.mu.Unlock()
	if r == nil {
		return false
	}
	select {
	case <-r.first:
		return false
	default:
	}
	timer := time.NewTimer(c.connectTimeout())
	defer timer.Stop()
	select {
	case <-r.first:
		return true
	case <-r.done:
	case <-timer.C:
	}
	return false
}

// lookup is one name with its last answer.
type lookup struct {
	endpoint *ir.Endpoint
	host     string
	port     string
	addrs    []netip.Addr
	due      time.Time
}

// lookupsOf is one lookup for each endpoint, which begins with what its name
// had before.
func lookupsOf(set *ir.EndpointSet, before []*lookup) []*lookup {
	known := map[string][]netip.Addr{}
	for _, l := range before {
		if len(l.addrs) > 0 {
			known[l.host] = l.addrs
		}
	}
	var lookups []*lookup
	for i := range set.Endpoints {
		e := &set.Endpoints[i]
		host, port, err := net.SplitHostPort(e.Address)
		if err != nil {
			continue // compile writes host:port
		}
		lookups = append(lookups, &lookup{endpoint: e, host: host, port: port, addrs: known[host]})
	}
	return lookups
}

func (c *Cluster) keepResolved(ctx context.Context, r *resolution) {
	for first := true; ; first = false {
		now := time.Now()
		next := now.Add(maxDNSRefresh)
		changed := first
		for _, l := range r.lookups {
			if !l.due.After(now) {
				changed = c.lookUp(ctx, l) || changed
			}
			if l.due.Before(next) {
				next = l.due
			}
		}
		if ctx.Err() != nil {
			return
		}
		if changed {
			c.setHosts(c.resolved(r.lookups))
		}
		if first {
			close(r.first)
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// lookUp asks for one name and reports whether its addresses have changed.
// After a failure the old ones stay.
func (c *Cluster) lookUp(ctx context.Context, l *lookup) bool {
	if addr, err := netip.ParseAddr(l.host); err == nil {
		l.due = time.Now().Add(maxDNSRefresh)
		changed := len(l.addrs) == 0
		l.addrs = []netip.Addr{addr}
		return changed
	}
	ask, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	addrs, ttl, err := c.set.opts.Resolver.Resolve(ask, l.host)
	c.stats.dnsAttempts.Add(1)
	if err != nil {
		c.stats.dnsFailures.Add(1)
		l.due = time.Now().Add(c.dnsRefresh())
		return false
	}
	if len(addrs) == 0 { // what does not exist has no TTL
		ttl = c.dnsRefresh()
	}
	l.due = time.Now().Add(min(max(ttl, minDNSRefresh), maxDNSRefresh))
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	addrs = addrs[:min(len(addrs), maxDNSAddresses)]
	if c.conf.Load().Type == ir.LogicalDNS && len(addrs) > 0 {
		// One address at a time; it stays as long as the name still has it.
		keep := addrs[0]
		if len(l.addrs) == 1 && slices.Contains(addrs, l.addrs[0]) {
			keep = l.addrs[0]
		}
		addrs = []netip.Addr{keep}
	}
	changed := !slices.Equal(addrs, l.addrs)
	l.addrs = addrs
	return changed
}

// dnsRefresh is how long to wait where no answer says it.
func (c *Cluster) dnsRefresh() time.Duration {
	if d := c.conf.Load().DNSRefresh.D(); d > 0 {
		return d
	}
	return defaultDNSRefresh
}

// resolved makes one endpoint of each address.
func (c *Cluster) resolved(lookups []*lookup) []*ir.Endpoint {
	var out []*ir.Endpoint
	for _, l := range lookups {
		for _, a := range l.addrs {
			e := *l.endpoint
			e.Address = net.JoinHostPort(a.String(), l.port)
			out = append(out, &e)
		}
	}
	return out
}
