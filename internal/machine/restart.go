package machine

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/backoff"
)

// Pauses before a container is started again. The kubelet's are 10 s to 5 min,
// which is too long for somebody who sits before it and mends the application,
// and for a sidecar that was killed.
const (
	restartMin = 250 * time.Millisecond
	restartMax = 30 * time.Second
	// restartReset is how long a container must have run to begin anew.
	restartReset = time.Minute
)

// Ending is a container's process that ended by itself.
type Ending struct {
	Workload, Container string
	Err                 error         // nil: exit code 0
	Count               int           // how often it has ended since it last ran well
	Again               time.Duration // until it is started again
	Longer              bool          // that pause is longer than the last, or the first
}

// restarts counts and spaces the starts of one container.
type restarts struct {
	pause backoff.Backoff
	count int
	last  time.Duration
}

func newRestarts() *restarts {
	return &restarts{pause: backoff.Backoff{First: restartMin, Max: restartMax, Exact: true}}
}

// ended is told how long the process ran, and says what is done about it.
func (r *restarts) ended(ran time.Duration) Ending {
	if ran >= restartReset {
		r.reset()
	}
	r.count++
	e := Ending{Count: r.count, Again: r.pause.Next()}
	e.Longer = e.Again > r.last
	r.last = e.Again
	return e
}

func (r *restarts) reset() {
	r.pause.Reset()
	r.count, r.last = 0, 0
}
