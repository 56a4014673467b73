package proxy

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// endless is a caller whose body never ends.
type endless struct{ caller }

func (endless) ReadyNow() bool              { return true }
func (endless) Trailers() []header.Field    { return nil }
func (endless) Next() ([]byte, bool, error) { return []byte("a piece"), false, nil }

// pausing is an upstream that has its answer ready while it takes a piece.
type pausing struct {
	upstream.Carrier
	pump *pump
}

func (pausing) SetWriteBy(time.Time)           {}
func (p pausing) WriteData([]byte, bool) error { p.pump.pause(); return nil }

// A pump that is asked to end does so between two pieces, and need not be
// aborted then. The upstream still waits for the request's end: on a connection
// that went back to the pool, the next request would pass for it.
func TestPausedPumpSparesPool(t *testing.T) {
	p := &pump{done: make(chan struct{})}
	x := &exchange{}
	x.pump, x.whole = p, true
	p.run(endless{}, pausing{pump: p})
	x.stopPump()
	if x.whole {
		t.Error("the connection may be used again")
	}
}

// An upload is not bounded by what an upstream that took no more has started:
// the timeouts count from the end of the request, whoever gets it.
func TestPausedPumpLiftsLimit(t *testing.T) {
	p := &pump{done: make(chan struct{})}
	x := &exchange{}
	x.pump, x.timeouts = p, timeouts{total: time.Second}
	p.run(endless{}, pausing{pump: p})
	x.seeRequestEnd()
	if x.limit.IsZero() {
		t.Fatal("a pump that is over starts the timeouts")
	}
	x.stopPump()
	if x.ended || !x.deadline.IsZero() || !x.limit.IsZero() {
		t.Errorf("ended %v, deadline %v, limit %v", x.ended, x.deadline, x.limit)
	}
}
