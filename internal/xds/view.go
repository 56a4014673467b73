package xds

import (
	"fmt"
	"slices"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// view is what a client has received, decoded. Snapshots made of it share every
// object that did not change, so that a change costs what the changed resources
// cost: decoding, hashing, and later applying.
type view struct {
	clusters  kind[ir.Cluster]
	endpoints kind[ir.EndpointSet]
	listeners kind[ir.Listener]
	routes    kind[ir.RouteTable]
	secrets   map[string]*Resource // as received: two of them make one ir.Secret
	decoded   []*ir.Secret
	sum       ir.Sum
	system    string          // the newest version of the control plane's snapshot
	seen      map[string]bool // types that were answered
}

func newView() *view {
	v := &view{secrets: map[string]*Resource{}, seen: map[string]bool{}}
	v.clusters = newKind("cluster", func(c *ir.Cluster) string { return c.Name }, decodeCluster, &v.sum)
	v.endpoints = newKind("endpoints of", func(e *ir.EndpointSet) string { return e.Cluster }, decodeEndpoints, &v.sum)
	v.listeners = newKind("listener", func(l *ir.Listener) string { return l.Name }, decodeListener, &v.sum)
	v.routes = newKind("route table", func(t *ir.RouteTable) string { return t.Name }, decodeRoutes, &v.sum)
	return v
}

// take merges a response. What cannot be decoded is remembered and makes
// snapshot fail until it is mended or removed.
func (v *view) take(m *discovery.DeltaDiscoveryResponse) {
	v.system = m.SystemVersionInfo
	v.seen[m.TypeUrl] = true
	switch m.TypeUrl {
	case ClusterType:
		v.clusters.take(m)
	case EndpointType:
		v.endpoints.take(m)
	case ListenerType:
		v.listeners.take(m)
	case RouteType:
		v.routes.take(m)
	case SecretType:
		for _, r := range m.Resources {
			v.secrets[r.Name] = &Resource{Name: r.Name, Version: r.Version, Body: r.Resource}
		}
		for _, name := range m.RemovedResources {
			delete(v.secrets, name)
		}
		v.decoded = nil
	}
}

// versions of what is here, for a new stream to start from.
func (v *view) versions(typeURL string) map[string]string {
	switch typeURL {
	case ClusterType:
		return v.clusters.versions()
	case EndpointType:
		return v.endpoints.versions()
	case ListenerType:
		return v.listeners.versions()
	case RouteType:
		return v.routes.versions()
	}
	out := map[string]string{}
	for name, r := range v.secrets {
		out[name] = r.Version
	}
	return out
}

// snapshot is everything that is here, sealed.
func (v *view) snapshot(node ir.Node) (*ir.Snapshot, error) {
	for _, bad := range []map[string]error{v.clusters.bad, v.endpoints.bad, v.listeners.bad, v.routes.bad} {
		for _, err := range bad {
			return nil, err
		}
	}
	s := &ir.Snapshot{Node: node, Clusters: v.clusters.items, Endpoints: v.endpoints.items, Listeners: v.listeners.items, Routes: v.routes.items}
	if v.decoded == nil && len(v.secrets) > 0 {
		var err error
		if v.decoded, err = decodeSecrets(&Resources{ByType: map[string]map[string]*Resource{SecretType: v.secrets}}); err != nil {
			return nil, err
		}
	}
	s.Secrets = v.decoded
	slices.SortFunc(s.Secrets, func(a, b *ir.Secret) int { return strings.Compare(a.Name, b.Name) })
	sum := v.sum
	for _, secret := range s.Secrets {
		sum.Add(ir.DigestOf(secret))
	}
	s.Version = sum.Version()
	return s, nil
}

// kind holds the resources of one type.
type kind[T any] struct {
	label  string
	name   func(*T) string
	decode func(*anypb.Any) (*T, error)
	sum    *ir.Sum
	items  []*T // sorted by name; replaced, never changed: snapshots share it
	held   map[string]held
	bad    map[string]error
}

type held struct {
	version string
	digest  ir.Digest
}

func newKind[T any](label string, name func(*T) string, decode func(*anypb.Any) (*T, error), sum *ir.Sum) kind[T] {
	return kind[T]{label: label, name: name, decode: decode, sum: sum, held: map[string]held{}, bad: map[string]error{}}
}

func (k *kind[T]) take(m *discovery.DeltaDiscoveryResponse) {
	items := slices.Clone(k.items)
	var added []*T
	for _, r := range m.Resources {
		v, err := k.decode(r.Resource)
		if err == nil && k.name(v) != r.Name {
			err = fmt.Errorf("it calls itself %s", k.name(v))
		}
		if err != nil {
			k.bad[r.Name] = fmt.Errorf("%s %s: %w", k.label, r.Name, err)
			continue
		}
		delete(k.bad, r.Name)
		old, known := k.held[r.Name]
		place, found := k.find(items, r.Name)
		if known && !found {
			continue // named twice in one response: the first counts
		}
		if known {
			k.sum.Remove(old.digest)
		}
		now := held{r.Version, ir.DigestOf(v)}
		k.sum.Add(now.digest)
		k.held[r.Name] = now
		if found {
			items[place] = v
		} else {
			added = append(added, v)
		}
	}
	gone := map[string]bool{}
	for _, name := range m.RemovedResources {
		delete(k.bad, name)
		if old, known := k.held[name]; known {
			k.sum.Remove(old.digest)
			delete(k.held, name)
			gone[name] = true
		}
	}
	if len(gone) > 0 {
		items = slices.DeleteFunc(items, func(v *T) bool { return gone[k.name(v)] })
	}
	if len(added) > 0 {
		items = append(items, added...)
		slices.SortFunc(items, func(a, b *T) int { return strings.Compare(k.name(a), k.name(b)) })
	}
	k.items = items
}

func (k *kind[T]) find(items []*T, name string) (int, bool) {
	return slices.BinarySearchFunc(items, name, func(v *T, name string) int { return strings.Compare(k.name(v), name) })
}

func (k *kind[T]) versions() map[string]string {
	out := make(map[string]string, len(k.held))
	for name, h := range k.held {
		out[name] = h.version
	}
	return out
}
