package proxy

import (
	"sync"
	"time"
)

const (
	maxRecent     = 256 // kept, the newest
	maxRecentRate = 50  // kept per second; of the others there are only counters
)

// recent keeps the newest few of what somebody may ask about later. Safe for
// concurrent use.
type recent[T any] struct {
	mu      sync.Mutex
	kept    []*T // a ring; next is the oldest
	next    int
	second  int64
	started int // kept in second
}

// due reports whether one more may be kept in this second; to be asked before
// the work of describing it.
func (r *recent[T]) due(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := now.Unix(); s != r.second {
		r.second, r.started = s, 0
	}
	r.started++
	return r.started <= maxRecentRate
}

func (r *recent[T]) keep(x *T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.kept) < maxRecent {
		r.kept = append(r.kept, x)
		return
	}
	r.kept[r.next] = x
	r.next = (r.next + 1) % maxRecent
}

// list is what is wanted of it, the last one first.
func (r *recent[T]) list(wanted func(*T) bool) []*T {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []*T{}
	for i := range r.kept {
		if x := r.kept[(r.next+len(r.kept)-1-i)%len(r.kept)]; wanted(x) {
			out = append(out, x)
		}
	}
	return out
}
