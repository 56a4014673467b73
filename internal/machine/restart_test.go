package machine

import (
	"testing"
	"time"
)

// The pause doubles from 250 ms to 30 s, and only a longer one is worth a word; a
// container that ran well begins anew.
func TestRestarts(t *testing.T) {
	r := newRestarts()
	for round := range 2 {
		for i, tc := range []struct {
			ran, again time.Duration
			longer     bool
		}{
			{time.Duration(round) * restartReset, restartMin, true},
			{0, 2 * restartMin, true}, {restartReset - 1, time.Second, true}, {0, 2 * time.Second, true}, {0, 4 * time.Second, true},
			{0, 8 * time.Second, true}, {0, 16 * time.Second, true},
			{0, 30 * time.Second, true}, {0, 30 * time.Second, false}, {time.Second, 30 * time.Second, false},
		} {
			if e := r.ended(tc.ran); e != (Ending{Count: i + 1, Again: tc.again, Longer: tc.longer}) {
				t.Errorf("round %d, end %d: %+v, want again in %s, longer %t", round, i+1, e, tc.again, tc.longer)
			}
		}
	}
	r.reset()
	if e := r.ended(0); e.Count != 1 || e.Again != restartMin || !e.Longer {
		t.Errorf("after an edit: %+v", e)
	}
}
