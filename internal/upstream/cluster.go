package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"reflect"
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
	tls     *tls.Config // for every endpoint
	autoTLS *tls.Config // for endpoints with a sidecar
	service *telemetry.Service
}

func (s *Set) prepare(c *ir.Cluster) (*config, error) {
	conf := &config{Cluster: c, service: &telemetry.Service{Host: c.Service.Host, Name: c.Service.Name, Namespace: c.Service.Namespace}}
	if c.TLS != nil && c.AutoTLS != nil {
		return nil, errors.New("both tls and automatic tls are set")
	}
	switch c.LB {
	case "", ir.LeastRequest, ir.RoundRobin, ir.Random, ir.ClusterProvided:
	default:
		return nil, errors.New("load balancer " + string(c.LB) + " is not supported")
	}
	if c.Type == ir.StrictDNS {
		return nil, errors.New("cluster type STRICT_DNS is not supported")
	}
	var err error
	if conf.tls, err = s.clientTLS(c.TLS); err != nil {
		return nil, err
	}
	conf.autoTLS, err = s.clientTLS(c.AutoTLS)
	return conf, err
}

func (s *Set) clientTLS(t *ir.UpstreamTLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	if s.opts.TLS == nil {
		return nil, errors.New("TLS is configured, but this proxy has no certificates")
	}
	return s.opts.TLS.ClientTLS(t)
}

// Cluster is one upstream service with its state. Safe for concurrent use.
type Cluster struct {
	Name string
	mark int
	// dialHost is Options.Dial; nil: net.Dialer. Read-only.
	dialHost func(ctx context.Context, address string, bind netip.Addr) (net.Conn, error)

	conf  atomic.Pointer[config]
	hosts atomic.Pointer[hostSet]
	next  atomic.Uint64 // round robin position

	mu      sync.Mutex
	byAddr  map[string]*Host
	dynamic map[netip.AddrPort]*Host // original destinations
	waiters []*waiter
	closed  bool
	sweeper *time.Timer

	// Gauges that the breakers compare with their limits.
	connections, pending, requests, retries atomic.Int64
	idle                                    atomic.Int64
	stats                                   stats
}

// hostSet is replaced whole when endpoints, health or ejections change.
type hostSet struct {
	all     []*Host
	usable  []*Host  // healthy hosts of the first priority that has any
	weights []uint64 // cumulative; nil when all weigh the same
}

func newCluster(conf *config, mark int) *Cluster {
	c := &Cluster{Name: conf.Name, mark: mark, byAddr: map[string]*Host{}, dynamic: map[netip.AddrPort]*Host{}}
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
	old := c.conf.Load()
	if reflect.DeepEqual(old.Cluster, conf.Cluster) {
		return // keep the pointers that metrics are indexed by
	}
	c.conf.Store(conf)
	if old.Outlier != nil && conf.Outlier == nil {
		c.unejectAll()
	}
	if !reflect.DeepEqual(old.TLS, conf.TLS) || !reflect.DeepEqual(old.AutoTLS, conf.AutoTLS) || old.BindSource != conf.BindSource {
		c.closeIdle(func(*Conn) bool { return true })
	}
	c.wakeAll() // limits may have been raised
}

// setEndpoints replaces the endpoints; hosts that stay keep their connections
// and health.
func (c *Cluster) setEndpoints(set *ir.EndpointSet) {
	c.mu.Lock()
	next := map[string]*Host{}
	all := make([]*Host, 0)
	if set != nil {
		for _, e := range set.Endpoints {
			if next[e.Address] != nil {
				continue
			}
			h := c.byAddr[e.Address]
			if h == nil {
				h = newHost(c, e)
			} else {
				h.update(e)
			}
			next[e.Address] = h
			all = append(all, h)
		}
	}
	var gone []*Host
	for addr, h := range c.byAddr {
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

// rebuildLocked recomputes which hosts take requests. c.mu is held.
func (c *Cluster) rebuildLocked(all []*Host) {
	set := &hostSet{all: all}
	best := uint32(1<<32 - 1)
	for _, h := range all {
		if p := h.endpoint.Load().Priority; h.usable() && p < best {
			best = p
		}
	}
	equal := true
	for _, h := range all {
		e := h.endpoint.Load()
		if h.usable() && e.Priority == best {
			set.usable = append(set.usable, h)
			equal = equal && weight(e) == weight(set.usable[0].endpoint.Load())
		}
	}
	if !equal {
		var sum uint64
		for _, h := range set.usable {
			sum += weight(h.endpoint.Load())
			set.weights = append(set.weights, sum)
		}
	}
	c.hosts.Store(set)
}

func weight(e *ir.Endpoint) uint64 { return uint64(max(e.Weight, 1)) }

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
					delete(c.dynamic, key)
					break
				}
			}
		}
		h = newHost(c, ir.Endpoint{Address: dst.String()})
		c.dynamic[dst] = h
	}
	return h
}

// close stops pooling; requests in flight finish.
func (c *Cluster) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.closeIdle(func(*Conn) bool { return true })
	c.wakeAll()
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
