package upstream

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// An interrupt that comes just before the wait it is meant for ends it all the
// same, on HTTP/1.1 as on HTTP/2; the next holder of the connection does not
// hear of it.
func TestInterruptBeforeTheWait(t *testing.T) {
	c := cluster(t, ir.Cluster{}, listening(t))
	wait := func(up Carrier, d time.Duration) time.Duration {
		t.Helper()
		start := time.Now()
		up.SetReadBy(start.Add(d), 0)
		if err := up.ReadHead(&header.Head{}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	up, err := acquire(c)
	if err != nil {
		t.Fatal(err)
	}
	up.Interrupt()
	for range 2 {
		if took := wait(up, 5*time.Second); took > 4*time.Second {
			t.Errorf("interrupted, it waited for %v", took)
		}
	}
	up.ClearReadBy()
	if took := wait(up, 20*time.Millisecond); took < 20*time.Millisecond {
		t.Errorf("cleared, it waited for %v", took)
	}
	up.Interrupt()
	up.Release(time.Now())
	if up, err = acquire(c); err != nil || !up.Reused() {
		t.Fatal(err)
	}
	if took := wait(up, 20*time.Millisecond); took < 20*time.Millisecond {
		t.Errorf("the next holder waited for %v", took)
	}
	up.Close()
}
