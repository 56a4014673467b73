// Package xds carries snapshots between control plane and proxies as Envoy v3
// configuration over ADS, state of the world and delta. It is the only room
// that knows go-control-plane.
//
// Every resource is what Envoy itself would need to do the same. What Envoy
// has no words for (where a user wrote something, whose workload an endpoint
// is) rides along as metadata under the key "tulle", and our own sidecar
// rebuilds the exact ir objects from it.
package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Type URLs.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Types in the order they are pushed: what is referred to before what refers
// to it (make before break).
var Types = []string{ClusterType, EndpointType, ListenerType, RouteType, SecretType}

// Resource is one encoded resource.
type Resource struct {
	Name    string
	Version string // hash of Body
	Body    *anypb.Any
}

// Resources is a snapshot on the wire: by type, then by name.
type Resources struct {
	Version string // of the snapshot
	ByType  map[string]map[string]*Resource
}

func (r *Resources) add(typeURL, name string, m proto.Message) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	sum := sha256.Sum256(b)
	if r.ByType[typeURL] == nil {
		r.ByType[typeURL] = map[string]*Resource{}
	}
	r.ByType[typeURL][name] = &Resource{Name: name, Version: hex.EncodeToString(sum[:8]), Body: &anypb.Any{TypeUrl: typeURL, Value: b}}
	return nil
}

// names of one type, sorted.
func (r *Resources) names(typeURL string) []string {
	out := make([]string, 0, len(r.ByType[typeURL]))
	for n := range r.ByType[typeURL] {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// Encode turns a sealed snapshot into Envoy resources.
func Encode(s *ir.Snapshot) (*Resources, error) {
	r := &Resources{Version: s.Version, ByType: map[string]map[string]*Resource{}}
	for _, c := range s.Clusters {
		m, err := encodeCluster(c)
		if err == nil {
			err = r.add(ClusterType, c.Name, m)
		}
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
		}
	}
	for _, e := range s.Endpoints {
		m, err := encodeEndpoints(e)
		if err == nil {
			err = r.add(EndpointType, e.Cluster, m)
		}
		if err != nil {
			return nil, fmt.Errorf("endpoints of %s: %w", e.Cluster, err)
		}
	}
	for _, l := range s.Listeners {
		m, err := encodeListener(l)
		if err == nil {
			err = r.add(ListenerType, l.Name, m)
		}
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
	}
	for _, t := range s.Routes {
		m, err := encodeRoutes(t)
		if err == nil {
			err = r.add(RouteType, t.Name, m)
		}
		if err != nil {
			return nil, fmt.Errorf("route table %s: %w", t.Name, err)
		}
	}
	for _, secret := range s.Secrets {
		for _, m := range encodeSecret(secret) {
			if err := r.add(SecretType, m.Name, m); err != nil {
				return nil, fmt.Errorf("secret %s: %w", secret.Name, err)
			}
		}
	}
	return r, nil
}

// Decode rebuilds the snapshot of a node. A resource without our metadata
// comes from a foreign control plane and is refused with its name.
func Decode(r *Resources, node ir.Node) (*ir.Snapshot, error) {
	s := &ir.Snapshot{Node: node}
	for _, name := range r.names(ClusterType) {
		c, err := decodeCluster(r.ByType[ClusterType][name].Body)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", name, err)
		}
		s.Clusters = append(s.Clusters, c)
	}
	for _, name := range r.names(EndpointType) {
		e, err := decodeEndpoints(r.ByType[EndpointType][name].Body)
		if err != nil {
			return nil, fmt.Errorf("endpoints of %s: %w", name, err)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	for _, name := range r.names(ListenerType) {
		l, err := decodeListener(r.ByType[ListenerType][name].Body)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", name, err)
		}
		s.Listeners = append(s.Listeners, l)
	}
	for _, name := range r.names(RouteType) {
		t, err := decodeRoutes(r.ByType[RouteType][name].Body)
		if err != nil {
			return nil, fmt.Errorf("route table %s: %w", name, err)
		}
		s.Routes = append(s.Routes, t)
	}
	var err error
	if s.Secrets, err = decodeSecrets(r); err != nil {
		return nil, err
	}
	return s.Seal(), nil
}
