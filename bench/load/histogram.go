// Package load generates load where stock tools do not do: an open loop that
// does not omit what it could not send in time, streams of bytes, handshakes
// and unary gRPC calls.
package load

import (
	"math"
	"math/bits"
	"time"
)

// Histogram counts durations in buckets that are exact to 1/64 of their value,
// as HDR histograms do. The zero value is empty. Not safe for concurrent use.
type Histogram struct {
	counts [64 * 64]uint64
	total  uint64
}

// subBits is the number of significant bits kept of a value below its first.
const subBits = 6

// Record adds one duration; negative ones count as zero.
func (h *Histogram) Record(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.total++
}

func bucket(v uint64) int {
	if v < 1<<subBits {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)<<subBits + int(v>>shift) - 1<<subBits
}

// top is the largest value of a bucket.
func top(i int) uint64 {
	if i < 1<<subBits {
		return uint64(i)
	}
	shift := i>>subBits - 1
	return uint64(i&(1<<subBits-1)+1<<subBits+1)<<shift - 1
}

// Add counts everything that other has counted.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// Count is the number of durations.
func (h *Histogram) Count() uint64 { return h.total }

// Quantile returns the duration that the fraction q of all did not exceed; 0
// when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.total)))
	var seen uint64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return time.Duration(top(i))
		}
	}
	return 0
}
