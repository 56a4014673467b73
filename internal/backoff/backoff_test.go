package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPausesDouble(t *testing.T) {
	b := Backoff{Max: time.Second}
	for range 2 {
		for _, most := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, time.Second, time.Second} {
			if d := b.Next(); d < most/2 || d > most {
				t.Errorf("%v, want between %v and %v", d, most/2, most)
			}
		}
		b.Reset()
	}
}

func TestExactPauses(t *testing.T) {
	b := Backoff{First: time.Second, Max: 3 * time.Second, Exact: true}
	for range 2 {
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
			if d := b.Next(); d != want {
				t.Errorf("%v, want %v", d, want)
			}
		}
		b.Reset()
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := Wait(t.Context(), time.Minute); err != nil || time.Since(start) != time.Minute {
			t.Error(err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := Wait(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute+time.Second {
			t.Error(err, time.Since(start))
		}
	})
}
