// Package backoff spaces tries: each pause is twice the last. Who waits for the
// control plane has them jittered, so that a mesh does not come back in step.
package backoff

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"
)

// DefaultFirst is the first pause, before jitter.
const DefaultFirst = 100 * time.Millisecond

// Backoff is the state of one loop; one goroutine may use it. The zero value
// with Max set is ready.
type Backoff struct {
	First time.Duration // the first pause; default DefaultFirst
	Max   time.Duration // no pause is longer; at least First
	Exact bool          // without jitter
	last  time.Duration // before jitter; 0: none
}

// Next is how long to wait now: a pause, or between half of it and the whole.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, cmp.Or(b.First, DefaultFirst)), b.Max)
	if b.Exact {
		return b.last
	}
	return b.last/2 + rand.N(b.last/2+1)
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.last = 0 }

// Wait waits so long, or until ctx ends: then it returns its error.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
