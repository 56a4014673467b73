package proxy

import (
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// timeouts are what counts for one request: the route's words, unless the
// caller may say otherwise and does.
type timeouts struct {
	total, perTry time.Duration // 0: none
	retries       int           // x-envoy-max-retries; -1: the route's
}

// setTimeouts settles the request's timeouts in Envoy's order: the route's, a
// gRPC call's own deadline bounded by it, then the caller's x-envoy-upstream-*
// headers, which only the workload beside a sidecar may set (a gateway removes
// them from what comes from outside).
func (x *exchange) setTimeouts(f *ir.Forward) {
	t := &x.timeouts
	*t = timeouts{total: f.Timeout.D(), retries: -1}
	if f.Retry != nil {
		t.perTry = f.Retry.PerTryTimeout.D()
	}
	if x.grpc {
		if d, ok := grpcTimeout(x.req.Fields.First("grpc-timeout")); ok && d > 0 && (t.total == 0 || d < t.total) {
			t.total = d
		}
	}
	if x.chain.outbound {
		x.callersTimeouts(t)
	}
	if t.total > 0 && t.perTry >= t.total {
		t.perTry = 0
	}
}

// requestEnded starts the timeouts. As in Envoy they span from the end of the
// request to the end of the response: how long an upload takes is its caller's
// affair.
func (x *exchange) requestEnded(at time.Time) {
	if x.ended {
		return
	}
	x.ended = true
	if x.timeouts.total > 0 {
		x.deadline = at.Add(x.timeouts.total)
	}
}

// endOfRequest is when a request that is here had come.
func (x *exchange) endOfRequest() time.Time {
	if len(x.body) > 0 {
		return time.Now()
	}
	return x.start.Add(x.held)
}

// limitTry bounds the current try, counted from a time, zero for now: by the
// earlier of the try's timeout and the exchange's. Nothing bounds it while the
// request still comes.
func (x *exchange) limitTry(from time.Time) {
	x.limit = time.Time{}
	if !x.ended {
		return
	}
	x.limit = x.deadline
	if per := x.timeouts.perTry; per > 0 {
		if from.IsZero() {
			from = time.Now()
		}
		if t := from.Add(per); x.limit.IsZero() || t.Before(x.limit) {
			x.limit = t
		}
	}
}

// seeRequestEnd looks whether the pump has taken the request's end, from which
// the timeouts count, or takes no more because the upstream does not.
func (x *exchange) seeRequestEnd() {
	p := x.pump
	if x.ended || p == nil {
		return
	}
	var at time.Time
	switch {
	case p.last.Load():
		at = p.ended
	case p.over():
		at = time.Now()
	default:
		return
	}
	x.requestEnded(at)
	x.limitTry(at)
}

// lookAgain is how soon to see whether the request has ended: before the
// shortest timeout would have passed since.
func (t *timeouts) lookAgain() time.Duration {
	d := 2 * pollInterval
	for _, limit := range []time.Duration{t.total, t.perTry} {
		if limit > 0 {
			d = min(d, max(limit, minLook))
		}
	}
	return d
}

// minLook keeps a timeout of next to nothing from being looked for all the time.
const minLook = 10 * time.Millisecond

// callersTimeouts reads and removes the headers with which a caller overrides
// the route.
func (x *exchange) callersTimeouts(t *timeouts) {
	h := &x.req.Fields
	found := false
	for i := range h.Fields {
		if strings.HasPrefix(h.Fields[i].Name, "x-envoy-") {
			found = true
			break
		}
	}
	if !found {
		return
	}
	number := func(name string) (int, bool) {
		v, err := strconv.ParseUint(h.First(name), 10, 31)
		return int(v), err == nil
	}
	if ms, ok := number("x-envoy-upstream-rq-timeout-ms"); ok {
		t.total = time.Duration(ms) * time.Millisecond
	}
	if ms, ok := number("x-envoy-upstream-rq-per-try-timeout-ms"); ok {
		t.perTry = time.Duration(ms) * time.Millisecond
	}
	if n, ok := number("x-envoy-max-retries"); ok {
		t.retries = min(n, maxCallerRetries)
	}
	for _, name := range []string{"x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-max-retries"} {
		h.Del(name)
	}
}

// maxCallerRetries bounds what a caller may ask for.
const maxCallerRetries = 100

func (t *timeouts) expected() bool { return t.total > 0 || t.perTry > 0 }

// stampTimeouts tells the upstream how long the answer to this try is awaited.
func (x *exchange) stampTimeouts(h *header.Map) {
	left, total := x.timeouts.perTry, x.timeouts.total
	if !x.deadline.IsZero() {
		total = time.Until(x.deadline)
	}
	if x.timeouts.total > 0 && (left == 0 || total < left) {
		left = total
	}
	ms := max((left + time.Millisecond - 1).Milliseconds(), 1) // rounded up: who made the deadline answers first
	h.Add("x-envoy-expected-rq-timeout-ms", view(strconv.AppendInt(x.expected[:0], ms, 10)))
	if x.grpc {
		h.Set("grpc-timeout", strconv.FormatInt(min(ms, 99_999_999), 10)+"m") // at most eight digits
	}
}

// grpcTimeout reads a grpc-timeout (gRPC over HTTP/2: at most eight digits and
// a unit).
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	if n > uint64(1<<62)/uint64(unit) {
		return 1 << 62, true
	}
	return time.Duration(n) * unit, true
}
