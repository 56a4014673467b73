package upstream

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
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

// resolution keeps a DNS cluster's names resolved, each with a goroutine of its
// own: one that nobody answers for must not hold up the others.
type resolution struct {
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	lookups []*lookup
	stopped <-chan struct{}
	first   chan struct{} // closed when there is a host, or every name was looked up once
	begun   sync.Once     // closes it

	mu      sync.Mutex // guards what follows, and the lookups' addresses while they run
	unasked int        // names that were not looked up yet
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
	r := &resolution{cancel: cancel, stopped: ctx.Done(), first: make(chan struct{}), lookups: lookupsOf(set, before)}
	r.unasked = len(r.lookups)
	c.mu.Lock()
	c.resolving = r
	c.mu.Unlock()
	if len(r.lookups) == 0 {
		c.use(r)
	}
	for _, l := range r.lookups {
		r.wg.Go(func() { c.keepResolved(ctx, r, l) })
	}
}

// stopResolving waits for the goroutines' end and returns their last answers.
func (c *Cluster) stopResolving() []*lookup {
	c.mu.Lock()
	r := c.resolving
	c.resolving = nil
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel()
	r.wg.Wait()
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
	timer := time.NewTimer(c.connectTimeout())
	defer timer.Stop()
	select {
	case <-r.first:
		return true
	case <-r.stopped:
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

// keepResolved looks a name up until ctx ends.
func (c *Cluster) keepResolved(ctx context.Context, r *resolution, l *lookup) {
	for first := true; ; first = false {
		addrs, wait := c.lookUp(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if first || !slices.Equal(addrs, l.addrs) {
			r.mu.Lock()
			l.addrs = addrs
			if first {
				r.unasked--
			}
			c.use(r)
			r.mu.Unlock()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// use has the cluster go by the addresses that the names have now. r.mu is held,
// once there are lookups.
func (c *Cluster) use(r *resolution) {
	hosts := resolved(r.lookups)
	c.setHosts(hosts)
	if len(hosts) > 0 || r.unasked == 0 {
		r.begun.Do(func() { close(r.first) })
	}
}

// lookUp asks for one name and returns its addresses, the old ones after a
// failure, and when to ask again.
func (c *Cluster) lookUp(ctx context.Context, l *lookup) ([]netip.Addr, time.Duration) {
	if addr, err := netip.ParseAddr(l.host); err == nil {
		return []netip.Addr{addr}, maxDNSRefresh
	}
	ask, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	addrs, ttl, err := c.set.opts.Resolver.Resolve(ask, l.host)
	c.stats.dnsAttempts.Add(1)
	if err != nil {
		c.stats.dnsFailures.Add(1)
		return l.addrs, c.dnsRefresh()
	}
	if len(addrs) == 0 { // what does not exist has no TTL
		ttl = c.dnsRefresh()
	}
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
	return addrs, min(max(ttl, minDNSRefresh), maxDNSRefresh)
}

// dnsRefresh is how long to wait where no answer says it.
func (c *Cluster) dnsRefresh() time.Duration {
	if d := c.conf.Load().DNSRefresh.D(); d > 0 {
		return d
	}
	return defaultDNSRefresh
}

// resolved makes one endpoint of each address.
func resolved(lookups []*lookup) []*ir.Endpoint {
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
