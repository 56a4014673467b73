// Package backoff spaces the tries of who waits for the control plane: each
// pause twice the last, jittered so that a mesh does not come back in step.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// first pause, before jitter.
const first = 100 * time.Millisecond

// Backoff is the state of one loop; one goroutine may use it. The zero value
// with Max set is ready.
type Backoff struct {
	Max  time.Duration // no pause is longer; at least 100 ms
	last time.Duration // before jitter; 0: none
}

// Next is how long to wait now: between half of a pause and the whole.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, first), b.Max)
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
