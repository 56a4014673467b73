package upstream

import (
	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// maglev is the table of Google's Maglev: each host fills places in the order
// of its own permutation, turn by turn, until the table is full. Looking up is
// one division; a missing host moves few of the others' places.
type maglev struct {
	places []uint32 // index into hosts
	hosts  []*Host
}

const unowned = ^uint32(0)

func newMaglev(hosts []*Host, share func(*Host) float64, conf *ir.HashLB) *maglev {
	size := uint64(ir.DefaultMaglevTable)
	if conf != nil && conf.TableSize > 0 {
		size = min(conf.TableSize, ir.MaxMaglevTable)
	}
	m := &maglev{hosts: hosts, places: make([]uint32, size)}
	for i := range m.places {
		m.places[i] = unowned
	}
	type filler struct{ at, skip uint64 }
	fillers := make([]filler, len(hosts))
	weights := make([]float64, len(hosts))
	targets := make([]float64, len(hosts))
	var heaviest float64
	for i, h := range hosts {
		first := xxhash.Sum64String(h.Address)
		d := xxhash.NewWithSeed(1)
		_, _ = d.WriteString(h.Address) // never fails
		fillers[i] = filler{first % size, d.Sum64()%(size-1) + 1}
		weights[i] = share(h)
		heaviest = max(heaviest, weights[i])
	}
	filled := uint64(0)
	for turn := 1.0; filled < size; turn++ {
		for i := range fillers {
			// A host of half the weight takes every other turn.
			if turn*weights[i] < targets[i] {
				continue
			}
			targets[i] += heaviest
			f := &fillers[i]
			for m.places[f.at] != unowned {
				f.at = (f.at + f.skip) % size
			}
			m.places[f.at] = uint32(i)
			f.at = (f.at + f.skip) % size
			if filled++; filled == size {
				break
			}
		}
	}
	return m
}

func (m *maglev) lookup(hash, attempt uint64) *Host {
	if attempt > 0 {
		// As Envoy: another place for each further draw, the same for all callers.
		hash ^= ^uint64(0) - attempt + 1
	}
	return m.hosts[m.places[hash%uint64(len(m.places))]]
}
