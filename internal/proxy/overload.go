package proxy

import (
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// What the proxy does as its memory nears Options.MemoryLimit: Envoy's overload
// actions stop_accepting_requests and reject_incoming_connections, with the
// thresholds that Envoy's documentation suggests.
const (
	shedRequestsAt    = 0.95
	shedConnectionsAt = 0.98
	overloadInterval  = 250 * time.Millisecond
)

// overload watches memory. Requests and accepts look at two flags.
type overload struct {
	limit float64
	used  func() float64 // bytes; tests replace it

	requests, connections atomic.Bool
	stop, done            chan struct{}
}

// watch looks at memory until close. Without a limit it does nothing.
func (o *overload) watch(limit int64) {
	if limit <= 0 {
		return
	}
	o.limit = float64(limit)
	if o.used == nil {
		o.used = memoryUsed()
	}
	o.stop, o.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(o.done)
		tick := time.NewTicker(overloadInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				o.look()
			case <-o.stop:
				return
			}
		}
	}()
}

func (o *overload) look() {
	pressure := o.used() / o.limit
	o.requests.Store(pressure >= shedRequestsAt)
	o.connections.Store(pressure >= shedConnectionsAt)
}

// close ends the watch and waits for it.
func (o *overload) close() {
	if o.stop != nil {
		close(o.stop)
		<-o.done
	}
}

// memoryUsed reads what counts against GOMEMLIMIT: all that the runtime has
// mapped and not given back.
func memoryUsed() func() float64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	return func() float64 {
		metrics.Read(samples)
		return float64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
	}
}

var overloaded = local{telemetry.OverloadShed, 503, 14, "overload", "envoy overloaded", "the sidecar's memory is nearly used up: see GOMEMLIMIT"}

// shed answers a request that there is no memory for. Nothing of the request
// but its head has been read by then.
func (x *exchange) shed() bool {
	if !x.d.p.overload.requests.Load() {
		return false
	}
	x.method = x.req.Method
	x.d.p.stats.requestsShed.Add(1)
	x.reply(&overloaded)
	return true
}
