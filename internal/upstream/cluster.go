package upstream

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

const (
	defaultConnectTimeout = 10 * time.Second
	defaultIdleTimeout    = time.Hour
	maxDynamicHosts       = 4096 // original-destination hosts kept per cluster
)

// config is one cluster's immutable configuration with what is derived from it.
type config struct {
	*ir.Cluster
	secrets []*ir.Secret // that the TLS configurations were made of
	tls     *tls.Config  // for every endpoint
	autoTLS *tls.Config  // for endpoints with a sidecar
	service *telemetry.Service
	recent  *recent // requests of the retry budget's interval
}

// prepare checks a cluster's configuration and builds what may fail.
func (s *Set) prepare(c *ir.Cluster, secrets func(string) *ir.Secret) (*config, error) {
	conf := &config{Cluster: c, service: &telemetry.Service{Host: c.Service.Host, Name: c.Service.Name, Namespace: c.Service.Namespace}}
	if c.TLS != nil && c.AutoTLS != nil {
		return nil, errors.New("both tls and automatic tls are set")
	}
	switch c.LB {
	case "", ir.LeastRequest, ir.RoundRobin, ir.Random, ir.ClusterProvided, ir.RingHash, ir.Maglev:
	default:
		return nil, errors.New("load balancer " + string(c.LB) + " is not supported")
	}
	if c.Hash != nil && c.LB == ir.Maglev && c.Hash.TableSize == 1 {
		return nil, errors.New("a maglev table of one place cannot be filled")
	}
	switch c.ProxyProtocol {
	case "", "V1", "V2":
	default:
		return nil, errors.New("PROXY protocol " + c.ProxyProtocol + " is not supported (V1 and V2 are)")
	}
	if b := c.RetryBudget; b != nil && b.Interval > 0 {
		conf.recent = &recent{}
	}
	var err error
	if conf.tls, err = s.clientTLS(conf, c.TLS, secrets); err != nil {
		return nil, err
	}
	conf.autoTLS, err = s.clientTLS(conf, c.AutoTLS, secrets)
	return conf, err
}

// clientTLS makes a TLS configuration and notes the secrets that it used: when
// one of them is renewed the configuration is made anew.
func (s *Set) clientTLS(conf *config, t *ir.UpstreamTLS, secrets func(string) *ir.Secret) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	if s.opts.TLS == nil {
		return nil, errors.New("TLS is configured, but this proxy has no certificates")
	}
	return s.opts.TLS.ClientTLS(t, func(name string) *ir.Secret {
		secret := secrets(name)
		if secret != nil {
			conf.secrets = append(conf.secrets, secret)
		}
		return secret
	})
}

// current reports whether the configuration is still what c and the secrets
// would give.
func (conf *config) current(c *ir.Cluster, secrets func(string) *ir.Secret) bool {
	if conf.Cluster != c {
		return false
	}
	for _, s := range conf.secrets {
		if secrets(s.Name) != s {
			return false
		}
	}
	return true
}

// Cluster is one upstream service with its state. Safe for concurrent use.
type Cluster struct {
	Name string
	set  *Set

	conf  atomic.Pointer[config]
	hosts atomic.Pointer[hostSet]

	mu        sync.Mutex
	endpoints *ir.EndpointSet // as configured
	byAddr    map[string]*Host
	dynamic   map[netip.AddrPort]*Host // original destinations; made when first needed
	waiters   []*waiter
	closed    bool
	sweeper   *time.Timer // closes idle connections
	warmer    *time.Timer // rebuilds when the newest host has warmed up
	outliers  *time.Timer // readmits ejected hosts
	resolving *resolution // of DNS clusters

	// Gauges that the breakers compare with their limits.
	connections, pending, requests, retries atomic.Int64
	idle                                    atomic.Int64
	stats                                   stats
}

func newCluster(conf *config, set *Set) *Cluster {
	c := &Cluster{Name: conf.Name, set: set}
	c.conf.Store(conf)
	c.hosts.Store(&hostSet{})
	return c
}

// Config is the configuration in force.
func (c *Cluster) Config() *ir.Cluster { return c.conf.Load().Cluster }

// Service is the destination service for metrics; one pointer per configuration.
func (c *Cluster) Service() *telemetry.Service { return c.conf.Load().service }

// reconfigure swaps the configuration. Connections survive unless how they are
// made has changed.
func (c *Cluster) reconfigure(conf *config) {
	old, idle := c.conf.Load(), c.idleTimeout()
	if *old.service == *conf.service {
		conf.service = old.service // metrics are indexed by the pointer
	}
	if old.recent != nil && conf.recent != nil && old.RetryBudget.Interval == conf.RetryBudget.Interval {
		conf.recent = old.recent
	}
	c.conf.Store(conf)
	switch {
	case old.Outlier == nil:
	case conf.Outlier == nil:
		c.unejectAll()
	case old.Outlier.Interval != conf.Outlier.Interval:
		c.rescheduleReadmission(conf.Outlier)
	}
	if !reflect.DeepEqual(old.TLS, conf.TLS) || !reflect.DeepEqual(old.AutoTLS, conf.AutoTLS) || !slices.Equal(old.secrets, conf.secrets) ||
		old.BindSource != conf.BindSource || old.HTTP.Protocol != conf.HTTP.Protocol || old.ProxyProtocol != conf.ProxyProtocol {
		for _, h := range c.Hosts() {
			h.renew()
		}
	}
	if c.idleTimeout() != idle {
		c.rescheduleSweep()
	}
	c.rebuild() // the balancer may be another
	c.wakeAll() // limits may have been raised
}

// setEndpoints takes over the endpoints as configured: addresses at once, names
// as they resolve.
func (c *Cluster) setEndpoints(set *ir.EndpointSet) {
	c.mu.Lock()
	c.endpoints = set
	c.mu.Unlock()
	switch c.conf.Load().Type {
	case ir.OriginalDst:
		return
	case ir.StrictDNS, ir.LogicalDNS:
		c.resolve(set)
		return
	}
	c.stopResolving()
	if set == nil {
		c.setHosts(nil)
		return
	}
	c.setHosts(pointers(set.Endpoints))
}

func pointers(list []ir.Endpoint) []*ir.Endpoint {
	out := make([]*ir.Endpoint, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// setHosts replaces the hosts; those that stay keep their connections and
// health.
func (c *Cluster) setHosts(endpoints []*ir.Endpoint) {
	c.mu.Lock()
	old := c.byAddr
	next := make(map[string]*Host, len(endpoints))
	all := make([]*Host, 0, len(endpoints))
	for _, e := range endpoints {
		if next[e.Address] != nil {
			continue
		}
		h := old[e.Address]
		if h == nil {
			h = newHost(c, e)
		} else {
			h.update(e)
		}
		next[e.Address] = h
		all = append(all, h)
	}
	var gone []*Host
	for addr, h := range old {
		if next[addr] == nil {
			gone = append(gone, h)
		}
	}
	c.byAddr = next
	c.rebuildLocked(all)
	c.mu.Unlock()
	for _, h := range gone {
		h.remove()
	}
	c.wakeAll()
}

func (c *Cluster) rebuild() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rebuildLocked(c.hosts.Load().all)
}

// original returns the host for an original destination.
func (c *Cluster) original(dst netip.AddrPort) *Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.dynamic[dst]
	if h == nil {
		if len(c.dynamic) >= maxDynamicHosts {
			for key, old := range c.dynamic { // any host without connections will do
				if old.connections.Load() == 0 && old.active.Load() == 0 {
					old.removed.Store(true) // a request may have picked it just now
					delete(c.dynamic, key)
					break
				}
			}
		}
		if c.dynamic == nil {
			c.dynamic = map[netip.AddrPort]*Host{}
		}
		h = newHost(c, &ir.Endpoint{Address: dst.String()})
		h.removed.Store(c.closed)
		c.dynamic[dst] = h
	}
	return h
}

// close stops pooling; requests in flight finish.
func (c *Cluster) close() {
	c.stopResolving()
	c.mu.Lock()
	c.closed = true
	for _, t := range []*time.Timer{c.warmer, c.outliers} {
		if t != nil {
			t.Stop()
		}
	}
	c.mu.Unlock()
	for _, h := range c.Hosts() {
		h.remove()
	}
	c.wakeAll()
}

// idleTimeout is how long a connection may idle; 0 is for ever.
func (c *Cluster) idleTimeout() time.Duration {
	if d := c.conf.Load().HTTP.IdleTimeout; d != nil {
		return d.D()
	}
	return defaultIdleTimeout
}

// Hosts returns every host with its state, for the admin pages.
func (c *Cluster) Hosts() []*Host {
	all := append([]*Host(nil), c.hosts.Load().all...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.dynamic {
		all = append(all, h)
	}
	return all
}
