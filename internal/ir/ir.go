// Package ir holds the nouns of the data plane: what one proxy is told to do,
// as plain values. compile makes a Snapshot, xds carries it, proxy runs it and
// explain reads it; none of them adds a second vocabulary.
//
// The shapes follow Envoy v3 (listener, filter chain, route table, cluster,
// endpoint), because that is the configuration Istio compiles to and the
// language the wire speaks. Everything is read-only once it is inside a
// Snapshot: share it freely between goroutines, never write to it.
package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
)

// Snapshot is the whole configuration of one proxy at one moment. A proxy
// applies a snapshot whole or keeps the one it has.
type Snapshot struct {
	// Version is the content hash of everything else but Node; equal versions
	// mean equal behaviour. Set by Seal.
	Version   string         `json:"version,omitempty"`
	Node      Node           `json:"node"`
	Listeners []*Listener    `json:"listeners,omitempty"`
	Routes    []*RouteTable  `json:"routes,omitempty"`
	Clusters  []*Cluster     `json:"clusters,omitempty"`
	Endpoints []*EndpointSet `json:"endpoints,omitempty"`
	Secrets   []*Secret      `json:"secrets,omitempty"` // beyond the workload's own identity
}

// Seal sorts the snapshot's resources by name, sets Version to the hash of the
// content and returns the snapshot. Only the code that builds a snapshot may
// call it, once, before the snapshot is shared.
func (s *Snapshot) Seal() *Snapshot {
	sort.Slice(s.Listeners, func(i, j int) bool { return s.Listeners[i].Name < s.Listeners[j].Name })
	sort.Slice(s.Routes, func(i, j int) bool { return s.Routes[i].Name < s.Routes[j].Name })
	sort.Slice(s.Clusters, func(i, j int) bool { return s.Clusters[i].Name < s.Clusters[j].Name })
	sort.Slice(s.Endpoints, func(i, j int) bool { return s.Endpoints[i].Cluster < s.Endpoints[j].Cluster })
	sort.Slice(s.Secrets, func(i, j int) bool { return s.Secrets[i].Name < s.Secrets[j].Name })
	s.Version = Hash(struct {
		L []*Listener
		R []*RouteTable
		C []*Cluster
		E []*EndpointSet
		S []*Secret
	}{s.Listeners, s.Routes, s.Clusters, s.Endpoints, s.Secrets})
	return s
}

// Hash is a short stable hash of any value of this package (12 hex digits of
// SHA-256 over its JSON form, whose map keys are sorted).
func Hash(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		// Every type here is plain data; a failure is a programming error.
		panic(fmt.Sprintf("ir: hash %T: %v", v, err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// RouteTable returns the route table of that name, or nil.
func (s *Snapshot) RouteTable(name string) *RouteTable {
	for _, t := range s.Routes {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Cluster returns the cluster of that name, or nil.
func (s *Snapshot) Cluster(name string) *Cluster {
	for _, c := range s.Clusters {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// EndpointSet returns the endpoints of the named cluster, or nil.
func (s *Snapshot) EndpointSet(cluster string) *EndpointSet {
	for _, e := range s.Endpoints {
		if e.Cluster == cluster {
			return e
		}
	}
	return nil
}
