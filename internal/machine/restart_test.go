package machine

import (
	"testing"
	"time"
)

// The pause doubles from 1 s to 30 s, and only a longer one is worth a word; a
// container that ran well begins anew.
func TestRestarts(t *testing.T) {
	r := newRestarts()
	for round := range 2 {
		for i, tc := range []struct {
			ran, again time.Duration
			longer     bool
		}{
			{time.Duration(round) * restartReset, time.Second, true},
			{0, 2 * time.Second, true}, {restartReset - 1, 4 * time.Second, true}, {0, 8 * time.Second, true}, {0, 16 * time.Second, true},
			{0, 30 * time.Second, true}, {0, 30 * time.Second, false}, {time.Second, 30 * time.Second, false},
		} {
			if e := r.ended(tc.ran); e != (Ending{Count: i + 1, Again: tc.again, Longer: tc.longer}) {
				t.Errorf("round %d, end %d: %+v, want again in %s, longer %t", round, i+1, e, tc.again, tc.longer)
			}
		}
	}
	r.reset()
	if e := r.ended(0); e.Count != 1 || e.Again != time.Second || !e.Longer {
		t.Errorf("after an edit: %+v", e)
	}
}
