package ir

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
)

// Seal sorts the snapshot's resources by name, sets Version to the hash of the
// content and returns the snapshot. Only the code that builds a snapshot may
// call it, once, before the snapshot is shared.
func (s *Snapshot) Seal() *Snapshot {
	sort.Slice(s.Listeners, func(i, j int) bool { return s.Listeners[i].Name < s.Listeners[j].Name })
	sort.Slice(s.Routes, func(i, j int) bool { return s.Routes[i].Name < s.Routes[j].Name })
	sort.Slice(s.Clusters, func(i, j int) bool { return s.Clusters[i].Name < s.Clusters[j].Name })
	sort.Slice(s.Endpoints, func(i, j int) bool { return s.Endpoints[i].Cluster < s.Endpoints[j].Cluster })
	sort.Slice(s.Secrets, func(i, j int) bool { return s.Secrets[i].Name < s.Secrets[j].Name })
	var sum Sum
	for _, l := range s.Listeners {
		sum.Add(DigestOf(l))
	}
	for _, t := range s.Routes {
		sum.Add(DigestOf(t))
	}
	for _, c := range s.Clusters {
		sum.Add(DigestOf(c))
	}
	for _, e := range s.Endpoints {
		sum.Add(DigestOf(e))
	}
	for _, secret := range s.Secrets {
		sum.Add(DigestOf(secret))
	}
	s.Version = sum.Version()
	return s
}

// Digest is the content hash of one resource.
type Digest [2]uint64

// DigestOf hashes a *Listener, *RouteTable, *Cluster, *EndpointSet or *Secret
// by its type and JSON form, whose map keys are sorted.
func DigestOf(v any) Digest {
	if s, ok := v.(*Secret); ok { // where it came from does not travel, and changes nothing
		bare := *s
		bare.Origin = Origin{}
		v = &bare
	}
	b, err := json.Marshal(v)
	if err != nil {
		// Every type here is plain data; a failure is a programming error.
		panic(fmt.Sprintf("ir: hash %T: %v", v, err))
	}
	h := sha256.New()
	fmt.Fprintf(h, "%T ", v)
	h.Write(b)
	sum := h.Sum(nil)
	return Digest{binary.BigEndian.Uint64(sum), binary.BigEndian.Uint64(sum[8:])}
}

// Sum is the hash of a set of resources in any order. A change costs what the
// changed resources cost, however many others there are.
type Sum Digest

// Add puts a resource in.
func (s *Sum) Add(d Digest) { s[0], s[1] = s[0]+d[0], s[1]+d[1] }

// Remove takes a resource out that was added before.
func (s *Sum) Remove(d Digest) { s[0], s[1] = s[0]-d[0], s[1]-d[1] }

// Version is a Snapshot's (12 hex digits).
func (s Sum) Version() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], s[0])
	binary.BigEndian.PutUint64(b[8:], s[1])
	sum := sha256.Sum256(b[:])
	return hex.EncodeToString(sum[:6])
}

// RouteTable returns the route table of that name, or nil. Like the two
// methods below it needs a sealed snapshot.
func (s *Snapshot) RouteTable(name string) *RouteTable {
	i := sort.Search(len(s.Routes), func(i int) bool { return s.Routes[i].Name >= name })
	if i < len(s.Routes) && s.Routes[i].Name == name {
		return s.Routes[i]
	}
	return nil
}

// Cluster returns the cluster of that name, or nil.
func (s *Snapshot) Cluster(name string) *Cluster {
	i := sort.Search(len(s.Clusters), func(i int) bool { return s.Clusters[i].Name >= name })
	if i < len(s.Clusters) && s.Clusters[i].Name == name {
		return s.Clusters[i]
	}
	return nil
}

// EndpointSet returns the endpoints of the named cluster, or nil.
func (s *Snapshot) EndpointSet(cluster string) *EndpointSet {
	i := sort.Search(len(s.Endpoints), func(i int) bool { return s.Endpoints[i].Cluster >= cluster })
	if i < len(s.Endpoints) && s.Endpoints[i].Cluster == cluster {
		return s.Endpoints[i]
	}
	return nil
}
