package proxy

import (
	"errors"
	"net"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// relay passes the response on: its head together with what is already here
// of its body in one write, then the rest as it comes.
func (x *exchange) relay() {
	if x.res.Status == 101 {
		x.upgrade()
		return
	}
	x.replied = true
	if p := x.pump; p != nil && !p.last.Load() {
		x.keepAlive = false // nobody knows how much there is to read before the next request (Envoy)
	}
	x.rec.Status = x.res.Status
	x.rec.Details = "via_upstream"
	x.prepareResponse()
	ok := x.relayHead()
	if x.grpc {
		x.settle(ok)
	}
	x.whole = ok
	x.stopPump()
}

// prepareResponse applies what the route says.
func (x *exchange) prepareResponse() {
	h := &x.res.Fields
	if !x.wc.Response.IsZero() {
		x.apply(h, &x.wc.Response)
	}
	if !x.route.Response.IsZero() {
		x.apply(h, &x.route.Response)
	}
	if x.allowedOrigin != "" {
		x.decorate(h)
	}
	x.addExtra(h)
	if x.chain.outbound {
		h.Set("x-envoy-upstream-service-time", itoa(int(x.rec.UpstreamTime.Milliseconds())))
	}
	if x.chain.gateway {
		h.Set("server", x.serverName())
	}
	if x.res.Framing == header.UntilClose {
		x.res.Framing = header.Open
	}
	if x.res.Framing == header.Length && x.res.Fields.Has("trailer") { // HTTP/2 may have both, HTTP/1.1 has trailers behind chunks only
		x.res.Framing, x.res.HasLength = header.Open, false
	}
}

// relayHead passes the head on and, unless it is all there is, what follows.
func (x *exchange) relayHead() bool {
	x.upKeepsAlive = x.res.KeepAlive // the head says from here on what we tell the caller
	end := x.up.Complete() && len(x.up.Trailers()) == 0
	if !x.sent(x.c.head(&x.res, end)) {
		return false
	}
	if end {
		return x.sent(x.c.flush())
	}
	return x.relayBody()
}

// relayBody passes the body on as it comes: what is here goes out in one write
// before we wait for more. false: the response could not be completed, and the
// caller sees that.
func (x *exchange) relayBody() bool {
	r := x.up
	for ended := false; !ended; {
		if !r.ReadyNow() {
			if !x.sent(x.c.flush()) {
				return false
			}
			r.SetReadBy(x.bodyDeadline(), 0)
		}
		b, done, err := r.Next()
		if err != nil {
			return x.bodyFailed(err)
		}
		ended = done
		x.rec.BytesSent += int64(len(b))
		var trailers []header.Field
		if done {
			trailers = r.Trailers()
		}
		if last := done && len(trailers) == 0; len(b) > 0 || last {
			if !x.sent(x.c.data(b, last)) {
				return false
			}
		}
		if len(trailers) > 0 && !x.sent(x.c.end(trailers)) {
			return false
		}
	}
	return x.sent(x.c.flush())
}

// bodyDeadline bounds the wait for more of a response. One that comes while the
// request still does has no deadline yet.
func (x *exchange) bodyDeadline() time.Time {
	x.seeRequestEnd()
	limit := time.Now().Add(streamIdle)
	if !x.deadline.IsZero() && x.deadline.Before(limit) {
		return x.deadline
	}
	return limit
}

// bodyFailed ends a response that broke off: what is here goes out, then it is
// cut.
func (x *exchange) bodyFailed(err error) bool {
	x.keepAlive = false
	if x.c.leaving() {
		x.rec.Flags |= telemetry.DownstreamTermination
		x.rec.Details = "downstream_remote_reset"
		return false
	}
	x.sent(x.c.flush())
	switch {
	case x.pump != nil && x.pump.failedDownstream(): // it has interrupted us
		why := x.callerFailed()
		x.rec.Flags |= why.flag
		x.rec.Details = why.details
	case isTimeout(err):
		x.rec.Flags |= telemetry.UpstreamRequestTimeout
		x.rec.Details = "response_timeout"
	default:
		x.rec.Flags |= telemetry.UpstreamConnTermination
		x.rec.Details = "upstream_reset_after_response_started{connection_termination}"
	}
	x.c.cut()
	return false
}

// sent reports whether a write downstream went well, and records it otherwise.
func (x *exchange) sent(err error) bool {
	if err == nil {
		return true
	}
	x.rec.Flags |= telemetry.DownstreamTermination
	x.rec.Details = "downstream_remote_disconnect"
	x.keepAlive = false
	return false
}

// returnUpstream pools the connection if both messages are through. It comes
// after the record, because the response's fields live in the connection's
// buffer.
func (x *exchange) returnUpstream() {
	if x.up == nil {
		return
	}
	x.c.watch(nil)
	if x.whole && x.upKeepsAlive && x.up.Complete() && x.c.Complete() && !x.c.leaving() {
		x.up.Release(x.start.Add(x.rec.Duration))
	} else {
		x.up.Close()
	}
	x.up = nil
}
