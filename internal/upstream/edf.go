package upstream

import (
	"math/rand/v2"
	"sync"
)

// edf is Envoy's earliest-deadline-first scheduler: each host's next turn comes
// 1/weight after its last one, so that hosts are chosen in proportion to their
// weights and as evenly spread as these allow.
type edf struct {
	weight func(*Host) float64

	mu   sync.Mutex // guards what follows
	heap []turn     // the earliest deadline is first
}

type turn struct {
	deadline float64
	host     *Host
}

func newEDF(hosts []*Host, weight func(*Host) float64) *edf {
	e := &edf{weight: weight, heap: make([]turn, 0, len(hosts))}
	for _, h := range hosts {
		// A random phase: proxies that start together, or rebuild at every
		// change, must not favour the same host.
		e.heap = append(e.heap, turn{rand.Float64() * e.wait(h), h})
	}
	for i := len(e.heap)/2 - 1; i >= 0; i-- {
		e.down(i)
	}
	return e
}

// wait is how long a host pauses between turns.
func (e *edf) wait(h *Host) float64 { return 1 / max(e.weight(h), 1e-6) }

func (e *edf) pick() *Host {
	e.mu.Lock()
	defer e.mu.Unlock()
	top := &e.heap[0]
	h := top.host
	top.deadline += e.wait(h)
	e.down(0)
	return h
}

// down restores the heap below i.
func (e *edf) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(e.heap) {
			return
		}
		if r := child + 1; r < len(e.heap) && e.heap[r].deadline < e.heap[child].deadline {
			child = r
		}
		if e.heap[i].deadline <= e.heap[child].deadline {
			return
		}
		e.heap[i], e.heap[child] = e.heap[child], e.heap[i]
		i = child
	}
}
