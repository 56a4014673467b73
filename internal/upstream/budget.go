package upstream

import (
	"sync/atomic"
	"time"
)

// retryLimit is how many retries may be in flight now: the breaker's number,
// or the share that the retry budget allows of the requests.
func (c *Cluster) retryLimit(conf *config) int64 {
	b := conf.RetryBudget
	if b == nil {
		return int64(conf.Breaker.MaxRetries)
	}
	requests := c.requests.Load()
	if b.Interval > 0 {
		requests = max(requests, conf.recent.within(b.Interval.D(), time.Now()))
	}
	return max(int64(b.MinConcurrency), int64(b.Percent*float64(requests)/100))
}

// recent counts requests by when they began, in slices of the budget's
// interval. Only clusters whose budget has an interval use it.
type recent struct {
	slots [budgetSlots]struct{ at, n atomic.Int64 }
}

const budgetSlots = 10

func (r *recent) add(interval time.Duration, now time.Time) {
	at := now.UnixNano() / int64(max(interval/budgetSlots, 1))
	s := &r.slots[at%budgetSlots]
	if old := s.at.Load(); old != at && s.at.CompareAndSwap(old, at) {
		s.n.Store(0)
	}
	s.n.Add(1)
}

func (r *recent) within(interval time.Duration, now time.Time) int64 {
	if r == nil {
		return 0
	}
	at := now.UnixNano() / int64(max(interval/budgetSlots, 1))
	var sum int64
	for i := range r.slots {
		if s := &r.slots[i]; at-s.at.Load() < budgetSlots {
			sum += s.n.Load()
		}
	}
	return sum
}
