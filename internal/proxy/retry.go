package proxy

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

const defaultBackoff = 25 * time.Millisecond

// mayRetry decides whether another try follows, and if so takes its slot in
// the retry breaker, until that try has its answer. A body that still comes is
// no hindrance, as long as what came of it is kept.
func (x *exchange) mayRetry(f *ir.Forward, fail *failure) bool {
	r := f.Retry
	if r == nil || r.Attempts == 0 || !x.wantsRetry(r, fail) {
		return false
	}
	if x.lost || x.pump != nil && x.pump.keeping.Load() == keepsNone {
		return false
	}
	attempts := int(r.Attempts)
	if x.timeouts.retries >= 0 {
		attempts = x.timeouts.retries
	}
	if x.attempt > attempts {
		x.rec.Flags |= telemetry.UpstreamRetryLimit
		return false
	}
	if !x.cluster.BeginRetry() {
		x.rec.Flags |= telemetry.UpstreamOverflow
		return false
	}
	if x.pump != nil && !x.pump.pause() { // it took too much since we looked
		x.cluster.EndRetry()
		return false
	}
	return true
}

// noteTry keeps how a try ended that another one follows.
func (x *exchange) noteTry(fail *failure) {
	if len(x.tries) >= telemetry.MaxTries-1 {
		return // room for the last one
	}
	t := telemetry.Try{Duration: time.Since(x.tryAt)}
	if x.host != nil {
		t.Host = x.host.Address
	}
	if fail != nil {
		t.Flags = fail.flag
	} else {
		t.Status = x.res.Status
	}
	x.tries = append(x.tries, t)
}

// noteLastTry completes the list of tries; a request that needed one has none.
func (x *exchange) noteLastTry() {
	if len(x.tries) == 0 {
		return
	}
	t := telemetry.Try{Duration: time.Since(x.tryAt), Flags: x.rec.Flags, Status: x.rec.Status}
	if x.host != nil {
		t.Host = x.host.Address
	}
	x.tries = append(x.tries, t)
	x.rec.Tries = x.tries
	if x.d.p.log.Enabled(context.Background(), slog.LevelDebug) {
		for i, t := range x.tries {
			x.d.p.log.Debug("try", "request", x.rec.RequestID, "n", i+1, "host", t.Host, "status", t.Status, "flags", t.Flags.String(), "duration", t.Duration)
		}
	}
}

// wantsRetry compares how a try ended with Envoy's retry conditions.
func (x *exchange) wantsRetry(r *ir.RetryPolicy, fail *failure) bool {
	if fail == nil && x.res.Fields.Has("x-envoy-ratelimited") { // this condition alone decides about those
		return slices.Contains(r.On, "envoy-ratelimited")
	}
	for _, on := range r.On {
		if fail != nil {
			if fail.kind == failFinal {
				return false
			}
			switch on {
			case "5xx", "gateway-error", "reset": // Envoy counts a lost connection as a 5xx
				return true
			case "connect-failure":
				if fail.kind == failConnect {
					return true
				}
			case "refused-stream":
				if fail.kind == failRefused {
					return true
				}
			case "reset-before-request":
				if fail.kind == failConnect || fail.kind == failRefused {
					return true
				}
			}
			continue
		}
		status := x.res.Status
		switch on {
		case "5xx":
			if status >= 500 {
				return true
			}
		case "gateway-error":
			if status >= 502 && status <= 504 {
				return true
			}
		case "retriable-4xx":
			if status == 409 {
				return true
			}
		case "retriable-status-codes":
			if slices.Contains(r.Codes, status) {
				return true
			}
		case "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable":
			if x.grpcStatusIs(on) {
				return true
			}
		}
	}
	return false
}

var grpcCodes = map[string]string{
	"cancelled": "1", "deadline-exceeded": "4", "internal": "13", "resource-exhausted": "8", "unavailable": "14",
}

// grpcStatusIs looks at a grpc-status in the response's head (a trailers-only
// response), the only one that can be retried.
func (x *exchange) grpcStatusIs(condition string) bool {
	v, ok := x.res.Fields.Get("grpc-status")
	return ok && v == grpcCodes[condition]
}

// retryAfterPause gives back the failed try's connection and waits out the
// backoff, or what is left of the exchange's time.
func (x *exchange) retryAfterPause(f *ir.Forward) {
	if x.grpc && x.up != nil {
		x.settle(true)
		x.rec.GRPCStatus = ""
	}
	x.discardResponse()
	x.leaveHost()
	base := f.Retry.Backoff.D()
	if base == 0 {
		base = defaultBackoff
	}
	ceiling := f.Retry.MaxBackoff.D()
	if ceiling == 0 {
		ceiling = 10 * base
	}
	// Fully jittered exponential backoff: rand(0, base × (2^n − 1)), capped.
	span := min(base*time.Duration(1<<min(x.attempt, 16)-1), ceiling)
	pause := time.Duration(rand.Int64N(int64(span)) + 1)
	if !x.deadline.IsZero() && time.Now().Add(pause).After(x.deadline) {
		pause = time.Until(x.deadline)
	}
	if pause > 0 {
		timer := time.NewTimer(pause)
		<-timer.C
	}
}

// discardResponse drops a response that will be retried. Its connection stays
// usable if the rest of the body is here already.
func (x *exchange) discardResponse() {
	if x.up == nil {
		return
	}
	r := x.up
	for !r.Complete() && r.AllBuffered() {
		if _, _, err := r.Next(); err != nil {
			break
		}
	}
	if r.Complete() && x.res.KeepAlive && x.pump == nil {
		x.c.watch(nil)
		x.up.Release(time.Now())
		x.up = nil
		return
	}
	x.closeUpstream()
}
