package upstream

import (
	"math"
	"sort"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// HashOf is the hash of a header, cookie, parameter or address (xxHash64, as
// in Envoy, so that both send a caller to the same host).
func HashOf(s string) Hash { return Hash{xxhash.Sum64String(s), true} }

// ring is a ketama ring as in Envoy: every host has entries in proportion to its
// weight, and a hash belongs to the next entry. Without a host only its own
// share moves.
type ring struct {
	hashes []uint64 // ascending
	owner  []uint32 // index into hosts
	hosts  []*Host
}

func newRing(hosts []*Host, share func(*Host) float64, conf *ir.HashLB) *ring {
	size := float64(ir.DefaultRingSize)
	if conf != nil && conf.MinRingSize > 0 {
		size = float64(min(conf.MinRingSize, ir.MaxRingSize))
	}
	var sum float64
	least := math.MaxFloat64
	for _, h := range hosts {
		w := share(h)
		sum += w
		least = min(least, w)
	}
	least /= sum
	// The smallest host gets a power of two of entries, unless the ring would
	// grow past its limit. Envoy takes the next whole number instead; then every
	// host's number changes with every host that comes or goes, and more moves
	// than the share that must.
	scale := min(math.Exp2(math.Ceil(math.Log2(math.Max(1, least*size))))/least, ir.MaxRingSize)
	type entry struct {
		hash  uint64
		owner uint32
	}
	entries := make([]entry, 0, int(math.Ceil(scale)))
	var have, want float64
	var key []byte
	for i, h := range hosts {
		want += scale * share(h) / sum
		for n := 0; have < want; n++ {
			key = append(append(key[:0], h.Address...), '_')
			key = strconv.AppendInt(key, int64(n), 10)
			entries = append(entries, entry{xxhash.Sum64(key), uint32(i)})
			have++
		}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].hash < entries[j].hash })
	r := &ring{hosts: hosts, hashes: make([]uint64, len(entries)), owner: make([]uint32, len(entries))}
	for i, e := range entries {
		r.hashes[i], r.owner[i] = e.hash, e.owner
	}
	return r
}

func (r *ring) lookup(hash, attempt uint64) *Host {
	n := len(r.hashes)
	i := sort.Search(n, func(i int) bool { return r.hashes[i] >= hash })
	return r.hosts[r.owner[(uint64(i)+attempt)%uint64(n)]]
}
