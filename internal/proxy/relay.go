package proxy

import (
	"errors"
	"net"
	"time"

	"github.com/tulle-mesh/tulle/internal/h1"
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
	x.rec.Status = x.res.Status
	x.rec.Details = "via_upstream"
	framing := x.prepareResponse()
	b := x.appendResponse(x.c.out[:0], framing)
	ok := x.relayBody(b, framing)
	x.stopPump()
	x.returnUpstream(ok)
}

// prepareResponse applies what the route says and decides how the body is
// framed for this caller.
func (x *exchange) prepareResponse() header.Framing {
	h := &x.res.Fields
	if !x.route.Response.IsZero() {
		apply(h, &x.route.Response)
	}
	if !x.wc.Response.IsZero() {
		apply(h, &x.wc.Response)
	}
	for _, f := range x.extra {
		h.Add(f.Name, f.Value)
	}
	if x.chain.outbound {
		h.Set("x-envoy-upstream-service-time", itoa(int(x.rec.UpstreamTime.Milliseconds())))
	}
	if x.chain.gateway {
		h.Set("server", x.serverName())
	}
	framing := x.res.Framing
	if framing == header.UntilClose || framing == header.Open {
		framing = header.Open
		if x.req.HTTP10 { // it does not know chunks: the end of the connection is the end
			framing = header.UntilClose
			x.keepAlive = false
		}
	}
	return framing
}

func (x *exchange) appendResponse(b []byte, framing header.Framing) []byte {
	b = h1.AppendStatusLine(b, x.res.Status, x.res.Reason)
	b = h1.AppendFields(b, x.res.Fields.Fields)
	switch {
	case framing == header.NoBody && x.res.HasLength && x.res.Status >= 200 && x.res.Status != 204:
		b = h1.AppendFraming(b, header.Length, x.res.Length) // HEAD and 304 tell the length of what they do not send
	default:
		b = h1.AppendFraming(b, framing, x.res.Length)
	}
	switch {
	case !x.keepAlive || x.c.isClosing():
		x.keepAlive = false
		b = append(b, "connection: close\r\n"...)
	case x.req.HTTP10:
		b = append(b, "connection: keep-alive\r\n"...)
	}
	return h1.AppendEnd(b)
}

// relayBody writes b and the body behind it. false: the response could not be
// completed, and the downstream connection is cut so that the caller sees it.
func (x *exchange) relayBody(b []byte, framing header.Framing) bool {
	r := x.up.Reader
	for !r.Complete() {
		if !r.ReadyNow() {
			if len(b) > 0 {
				if !x.writeDown(b) {
					return false
				}
				b = b[:0]
			}
			x.up.SetReadBy(x.bodyDeadline(), 0)
		}
		data, done, err := r.Next()
		if err != nil {
			return x.bodyFailed(b, err)
		}
		x.rec.BytesSent += int64(len(data))
		if framing == header.Open {
			b = h1.AppendChunk(b, data)
		} else {
			b = append(b, data...)
		}
		if done {
			break
		}
		if len(b) >= 32<<10 {
			if !x.writeDown(b) {
				return false
			}
			b = b[:0]
		}
	}
	if framing == header.Open {
		b = h1.AppendLastChunk(b, r.Trailers())
	}
	return x.writeDown(b)
}

// bodyDeadline bounds the wait for more of a response.
func (x *exchange) bodyDeadline() time.Time {
	limit := time.Now().Add(streamIdle)
	if !x.deadline.IsZero() && x.deadline.Before(limit) {
		return x.deadline
	}
	return limit
}

// bodyFailed ends a response that broke off: what is here goes out, then the
// connection is cut, because only that tells an HTTP/1.1 caller.
func (x *exchange) bodyFailed(b []byte, err error) bool {
	x.keepAlive = false
	x.writeDown(b)
	if isTimeout(err) {
		x.rec.Flags |= telemetry.UpstreamRequestTimeout
		x.rec.Details = "response_timeout"
	} else {
		x.rec.Flags |= telemetry.UpstreamConnTermination
		x.rec.Details = "upstream_reset_after_response_started{connection_termination}"
	}
	x.c.reset()
	return false
}

func (x *exchange) writeDown(b []byte) bool {
	x.c.out = b
	if x.c.write(b) != nil {
		x.rec.Flags |= telemetry.DownstreamTermination
		x.rec.Details = "downstream_remote_disconnect"
		x.keepAlive = false
		return false
	}
	return true
}

// returnUpstream pools the connection if both messages are through.
func (x *exchange) returnUpstream(ok bool) {
	if x.up == nil {
		return
	}
	if ok && x.res.KeepAlive && x.up.Reader.Complete() && x.c.reader.Complete() {
		x.up.Release(time.Now())
	} else {
		x.up.Close()
	}
	x.up = nil
}
