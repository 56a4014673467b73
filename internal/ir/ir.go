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
)

// Snapshot is the whole configuration of one proxy at one moment. A proxy
// applies a snapshot whole or keeps the one it has.
type Snapshot struct {
	// Version is the content hash of everything else but Node; equal versions
	// mean equal behaviour. Set by Seal, which also sorts the lists by name.
	Version   string         `json:"version,omitempty"`
	Node      Node           `json:"node"`
	Listeners []*Listener    `json:"listeners,omitempty"`
	Routes    []*RouteTable  `json:"routes,omitempty"`
	Clusters  []*Cluster     `json:"clusters,omitempty"`
	Endpoints []*EndpointSet `json:"endpoints,omitempty"`
	Secrets   []*Secret      `json:"secrets,omitempty"` // beyond the workload's own identity
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
