package proxy

import (
	"math/rand/v2"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// filtered runs what the route puts before forwarding: faults, then CORS, in
// Envoy's order. false: the request has been answered.
func (x *exchange) filtered() bool {
	r := x.route
	if r.Fault != nil && !x.inject(r.Fault) {
		return true
	}
	return r.CORS != nil && r.Forward != nil && x.preflight()
}

func drawn(s ir.Share) bool { return s >= ir.All || rand.Uint32N(uint32(ir.All)) < uint32(s) }

// inject delays the request, then aborts it; each is drawn for itself. Timeouts
// and retries begin afterwards, as they belong to Envoy's router and the fault
// filter stands before it. false: the request is over.
func (x *exchange) inject(f *ir.Fault) bool {
	if d := f.Delay; d != nil && drawn(d.Share) && !x.hold(d.Fixed.D()) {
		x.reply(&clientGone)
		return false
	}
	a := f.Abort
	if a == nil || !drawn(a.Share) {
		return true
	}
	x.d.p.stats.aborts.Add(1)
	x.rec.Flags |= telemetry.FaultInjected
	x.rec.Details = "fault_filter_abort"
	const body = "fault filter abort"
	switch {
	case a.Status != 0:
		x.answer(a.Status, body)
	case a.GRPC == 0 && x.grpc: // an early OK
		x.answerAs(400, 0, "")
	case a.GRPC < len(httpFromGRPC):
		x.answerAs(httpFromGRPC[a.GRPC], a.GRPC, body)
	}
	return false
}

// hold waits for a delay fault; false when the caller leaves meanwhile.
func (x *exchange) hold(d time.Duration) bool {
	x.d.p.stats.delays.Add(1)
	x.d.p.stats.faultsActive.Add(1)
	defer x.d.p.stats.faultsActive.Add(-1)
	x.rec.Flags |= telemetry.DelayInjected
	end := time.Now().Add(d)
	timer := time.NewTimer(min(d, pollInterval))
	defer timer.Stop()
	for {
		<-timer.C
		left := time.Until(end)
		if left <= 0 {
			x.held = d
			return true
		}
		if x.c.gone() {
			return false
		}
		timer.Reset(min(left, pollInterval))
	}
}
