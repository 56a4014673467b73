// Package upstream is the far side of a proxy: clusters, the endpoints they
// balance over, outlier detection, circuit breakers and connection pools. It
// outlives snapshots: what a new configuration does not change (connections,
// health, counters) stays as it is, and costs nothing.
package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sort"
	"sync"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// TLSSource turns a cluster's TLS settings into a client configuration. It is
// called once per configuration change, not per connection; certificates that
// rotate are the returned configuration's own affair.
type TLSSource interface {
	ClientTLS(t *ir.UpstreamTLS, secrets func(name string) *ir.Secret) (*tls.Config, error)
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
	// Resolver looks names up for DNS clusters; nil asks the servers of
	// /etc/resolv.conf.
	Resolver Resolver
}

// Set is every cluster of one proxy. Safe for concurrent use; Prepare and
// Commit must not overlap with others.
type Set struct {
	opts     Options
	mu       sync.Mutex
	clusters map[string]*Cluster // replaced, never changed, when names come or go
	// What is in force, sorted by name: the next configuration is compared
	// with it pointer by pointer.
	confs     []*ir.Cluster
	endpoints []*ir.EndpointSet
	secrets   []*ir.Secret
	peers     telemetry.PeerRefusals
}

// New returns an empty set.
func New(opts Options) *Set {
	if opts.Resolver == nil {
		opts.Resolver = newSystemResolver(opts.Mark)
	}
	return &Set{opts: opts, clusters: map[string]*Cluster{}}
}

// Prepared is a checked configuration that can be committed without failing.
type Prepared struct {
	set       *Set
	snapshot  *ir.Snapshot
	confs     []*config // new or changed
	removed   []string
	endpoints []*ir.EndpointSet // new or changed, of clusters that stay as they are
	orphans   []string          // clusters whose endpoints are gone
}

// Prepare compares a sealed snapshot with what is in force and builds what may
// fail (TLS contexts) of what differs, changing nothing. Objects are compared
// by pointer: an object inside a snapshot never changes.
func (s *Set) Prepare(next *ir.Snapshot) (*Prepared, error) {
	p := &Prepared{set: s, snapshot: next}
	secret := func(name string) *ir.Secret { return find(next.Secrets, name, secretName) }
	same := sameSecrets(s.secrets, next.Secrets)
	changed := map[string]bool{}
	err := diff(s.confs, next.Clusters, clusterName, func(old, c *ir.Cluster) error {
		switch {
		case c == nil:
			p.removed = append(p.removed, old.Name)
			return nil
		case old == c && (same || s.clusters[c.Name].conf.Load().current(c, secret)):
			return nil
		}
		conf, err := s.prepare(c, secret)
		if err != nil {
			return fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		p.confs = append(p.confs, conf)
		changed[c.Name] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = diff(s.endpoints, next.Endpoints, endpointsName, func(old, e *ir.EndpointSet) error {
		switch {
		case old == e:
		case e == nil:
			p.orphans = append(p.orphans, old.Cluster)
		case !changed[e.Cluster]: // Commit looks the others up itself
			p.endpoints = append(p.endpoints, e)
		}
		return nil
	})
	return p, err
}

func clusterName(c *ir.Cluster) string       { return c.Name }
func endpointsName(e *ir.EndpointSet) string { return e.Cluster }
func secretName(s *ir.Secret) string         { return s.Name }

func sameSecrets(a, b []*ir.Secret) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// diff walks two lists sorted by name side by side and reports each pair; a
// side that lacks the name is nil.
func diff[T any](old, next []*T, name func(*T) string, pair func(old, next *T) error) error {
	i, j := 0, 0
	for i < len(old) || j < len(next) {
		var a, b *T
		switch {
		case j == len(next) || i < len(old) && name(old[i]) < name(next[j]):
			a = old[i]
			i++
		case i == len(old) || name(next[j]) < name(old[i]):
			b = next[j]
			j++
		default:
			a, b = old[i], next[j]
			i, j = i+1, j+1
		}
		if b != nil && j > 1 && name(next[j-2]) >= name(b) {
			return fmt.Errorf("%s: the snapshot's resources are not sorted, or the name is used twice", name(b))
		}
		if err := pair(a, b); err != nil {
			return err
		}
	}
	return nil
}

// find looks a name up in a sorted list.
func find[T any](list []*T, want string, name func(*T) string) *T {
	i := sort.Search(len(list), func(i int) bool { return name(list[i]) >= want })
	if i < len(list) && name(list[i]) == want {
		return list[i]
	}
	return nil
}

// Commit puts the configuration in force and returns the clusters by name; the
// map is read-only, and the same one as long as no cluster comes or goes.
// Clusters that are gone stop pooling: their connections end with the requests
// that hold them.
func (p *Prepared) Commit() map[string]*Cluster {
	s := p.set
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.clusters
	if p.renames() {
		next = maps.Clone(s.clusters) // requests may be reading the old one
	}
	for _, conf := range p.confs {
		c := next[conf.Name]
		if c == nil {
			c = newCluster(conf, s)
			next[conf.Name] = c
		} else {
			c.reconfigure(conf)
		}
		if conf.Type == ir.EDS {
			c.setEndpoints(find(p.snapshot.Endpoints, conf.Name, endpointsName))
		} else {
			c.setEndpoints(conf.Endpoints)
		}
	}
	for _, e := range p.endpoints {
		if c := next[e.Cluster]; c != nil && c.conf.Load().Type == ir.EDS {
			c.setEndpoints(e)
		}
	}
	for _, name := range p.orphans {
		if c := next[name]; c != nil && c.conf.Load().Type == ir.EDS {
			c.setEndpoints(nil)
		}
	}
	for _, name := range p.removed {
		next[name].close()
		delete(next, name)
	}
	s.clusters = next
	s.confs, s.endpoints, s.secrets = p.snapshot.Clusters, p.snapshot.Endpoints, p.snapshot.Secrets
	return next
}

// renames reports whether clusters come or go.
func (p *Prepared) renames() bool {
	for _, conf := range p.confs {
		if p.set.clusters[conf.Name] == nil {
			return true
		}
	}
	return len(p.removed) > 0
}

// Replaced counts the objects that metrics are indexed by and that this
// configuration replaces.
func (p *Prepared) Replaced() int {
	n := len(p.confs) + len(p.removed)
	for _, e := range p.endpoints {
		n += len(e.Endpoints)
	}
	return n
}

// Close closes every idle connection and stops pooling.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clusters {
		c.close()
	}
	s.clusters, s.confs, s.endpoints = map[string]*Cluster{}, nil, nil
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
	s.peers.Collect(e, "upstream")
}
