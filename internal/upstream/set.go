// Package upstream is the far side of a proxy: clusters, the endpoints they
// balance over, outlier detection, circuit breakers and connection pools. It
// outlives snapshots: what a new configuration does not change (connections,
// health, counters) stays as it is.
package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// TLSSource turns a cluster's TLS settings into a client configuration. It is
// called once per configuration change, not per connection; certificates that
// rotate are the returned configuration's own affair.
type TLSSource interface {
	ClientTLS(t *ir.UpstreamTLS) (*tls.Config, error)
}

// Options of a Set.
type Options struct {
	TLS TLSSource
	// Mark is set on every upstream socket (SO_MARK), so that redirection
	// rules leave the proxy's own connections alone. 0: none.
	Mark int
	// Dial connects to a host, from the address bind if it is valid; default
	// net.Dialer with Mark and the cluster's keepalive. A connection that is
	// not a socket may have Readable() bool: whether a read would not wait.
	Dial func(ctx context.Context, address string, bind netip.Addr) (net.Conn, error)
}

// Set is every cluster of one proxy. Safe for concurrent use; Apply calls must
// not overlap.
type Set struct {
	opts     Options
	mu       sync.Mutex
	clusters map[string]*Cluster
}

// New returns an empty set.
func New(opts Options) *Set {
	return &Set{opts: opts, clusters: map[string]*Cluster{}}
}

// Prepared is a checked configuration that can be committed without failing.
type Prepared struct {
	set   *Set
	confs []*config
	hosts map[string]*ir.EndpointSet
}

// Prepare checks a whole configuration and builds what may fail (TLS
// contexts), changing nothing.
func (s *Set) Prepare(clusters []*ir.Cluster, endpoints []*ir.EndpointSet) (*Prepared, error) {
	p := &Prepared{set: s, hosts: make(map[string]*ir.EndpointSet, len(endpoints))}
	for _, e := range endpoints {
		p.hosts[e.Cluster] = e
	}
	for _, c := range clusters {
		conf, err := s.prepare(c)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		p.confs = append(p.confs, conf)
		if c.Type != ir.EDS && c.Endpoints != nil {
			p.hosts[c.Name] = c.Endpoints
		}
	}
	return p, nil
}

// Commit puts the configuration in force and returns the clusters by name.
// Clusters that are gone stop pooling: their connections end with the
// requests that hold them.
func (p *Prepared) Commit() map[string]*Cluster {
	s := p.set
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[string]*Cluster, len(p.confs))
	for _, conf := range p.confs {
		c := s.clusters[conf.Name]
		if c == nil {
			c = newCluster(conf, s.opts.Mark)
			c.dialHost = s.opts.Dial
		} else {
			c.reconfigure(conf)
		}
		if conf.Type != ir.OriginalDst {
			c.setEndpoints(p.hosts[conf.Name])
		}
		next[conf.Name] = c
	}
	for name, c := range s.clusters {
		if next[name] == nil {
			c.close()
		}
	}
	s.clusters = next
	return next
}

// Close closes every idle connection and stops pooling.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clusters {
		c.close()
	}
	s.clusters = map[string]*Cluster{}
}

// Clusters returns the clusters now in force, for the admin pages.
func (s *Set) Clusters() []*Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Cluster, 0, len(s.clusters))
	for _, c := range s.clusters {
		out = append(out, c)
	}
	return out
}

// Collect implements telemetry.Collector with Envoy's names for cluster stats.
func (s *Set) Collect(e *telemetry.Exposition) {
	for _, c := range s.Clusters() {
		c.collect(e)
	}
}
