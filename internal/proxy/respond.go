package proxy

import (
	"time"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/h1"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// local is an answer the proxy makes itself. The table below is closed: there
// is no other way for the proxy to answer, so each has its flag, its status
// for HTTP and gRPC, and what an operator should look at.
type local struct {
	flag    telemetry.Flags
	status  int
	grpc    int
	details string // response code details
	body    string
	hint    string // for operators (Failure), never sent downstream
}

const resetBefore = "upstream connect error or disconnect/reset before headers. reset reason: "

var (
	noRouteTable   = local{telemetry.NoRoute, 404, 12, "route_configuration_not_found", "", "the route table has not arrived from the control plane yet: see proxy-status"}
	noVirtualHost  = local{telemetry.NoRoute, 404, 12, "route_not_found", "", "no virtual host for this Host header: see proxy-config routes"}
	noRoute        = local{telemetry.NoRoute, 404, 12, "route_not_found", "", "the virtual host is known, no route of it matches: see explain"}
	noCluster      = local{telemetry.NoCluster, 503, 14, "cluster_not_found", "", "the route names a service or subset that does not exist"}
	blackHole      = local{telemetry.NoHealthyUpstream, 502, 14, "direct_response", "", "REGISTRY_ONLY: the host is not in the registry"}
	noHealthy      = local{telemetry.NoHealthyUpstream, 503, 14, "no_healthy_upstream", "no healthy upstream", "no endpoint is ready, or all are ejected: see proxy-config endpoints"}
	overflow       = local{telemetry.UpstreamOverflow, 503, 14, "upstream_reset_before_response_started{overflow}", resetBefore + "overflow", "a circuit breaker is open: connectionPool of the DestinationRule"}
	connectFailure = local{telemetry.UpstreamConnectFailure, 503, 14, "upstream_reset_before_response_started{remote_connection_failure}", resetBefore + "remote connection failure", "the endpoint did not accept the connection"}
	connectTimeout = local{telemetry.UpstreamConnectFailure, 503, 14, "upstream_reset_before_response_started{connection_timeout}", resetBefore + "connection timeout", "connectTimeout passed; maybe a NetworkPolicy drops the packets"}
	tlsFailure     = local{telemetry.UpstreamConnectFailure, 503, 14, "upstream_reset_before_response_started{remote_connection_failure|TLS_error}", resetBefore + "remote connection failure, transport failure reason: TLS_error", "the TLS handshake failed: see mtls verify"}
	upstreamReset  = local{telemetry.UpstreamConnTermination, 503, 14, "upstream_reset_before_response_started{connection_termination}", resetBefore + "connection termination", "the endpoint closed the connection before it answered; under STRICT mTLS a plaintext caller sees this"}
	remoteReset    = local{telemetry.UpstreamRemoteReset, 503, 14, "upstream_reset_before_response_started{remote_reset}", resetBefore + "remote reset", "the endpoint reset the stream"}
	refusedStream  = local{telemetry.UpstreamRemoteReset, 503, 14, "upstream_reset_before_response_started{remote_refused_stream_reset}", resetBefore + "remote refused stream reset", "the endpoint takes no more streams, or is shutting down"}
	upstreamBad    = local{telemetry.UpstreamProtocolError, 502, 14, "upstream_reset_before_response_started{protocol_error}", resetBefore + "protocol error", "the endpoint's answer is not valid HTTP/1.1"}
	requestTimeout = local{telemetry.UpstreamRequestTimeout, 504, 4, "response_timeout", "upstream request timeout", "the VirtualService's timeout passed"}
	tryTimeout     = local{telemetry.UpstreamRequestTimeout, 504, 4, "upstream_per_try_timeout", "upstream request timeout", "retries.perTryTimeout passed on the last try"}
	clientGone     = local{telemetry.DownstreamTermination, 0, 1, "downstream_remote_disconnect", "", "the caller left before the answer"}
	bodyTimeout    = local{telemetry.StreamIdleTimeout, 408, 4, "stream_idle_timeout", "stream timeout", "the request's body stood still"}
	badPath        = local{telemetry.DownstreamProtocolError, 400, 3, "path_normalization_failed", "", "the path cannot be normalized without ambiguity"}
	upgradeRefused = local{0, 403, 7, "upgrade_failed", "", "this protocol upgrade is not enabled"}
	noUpgrade      = local{telemetry.UpstreamProtocolError, 502, 14, "upgrade_not_accepted", "", "the endpoint speaks HTTP/2 without extended CONNECT (RFC 8441): name its port http, not http2"}
	bodyTooLarge   = local{0, 413, 8, "request_payload_too_large", "Payload Too Large", "the body exceeds includeRequestBodyInCheck.maxRequestBytes"}
)

func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// stringBytes is view's reverse; the bytes must not be written to.
func stringBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// reply answers with an entry of the table.
func (x *exchange) reply(l *local) {
	x.why = l
	x.rec.Flags |= l.flag
	x.rec.Details = l.details
	if l == &overflow {
		x.extra = append(x.extra, ir.Header{Name: "x-envoy-overloaded", Value: "true"})
	}
	if l.status == 0 { // nobody is there to be answered
		x.keepAlive = false
		return
	}
	x.answerAs(l.status, l.grpc, l.body)
}

// answer writes a response of our own, with the headers in x.extra.
func (x *exchange) answer(status int, body string) {
	x.answerAs(status, grpcFromHTTP(status), body)
}

// answerAs is answer with the status that gRPC callers get.
func (x *exchange) answerAs(status, grpc int, body string) {
	if x.replied {
		// A response is under way: all that is left is to cut it short visibly.
		x.keepAlive = false
		x.c.cut()
		return
	}
	x.replied = true
	x.rec.Status = status
	if !x.drainBody() {
		x.keepAlive = false
	}
	var err error
	if x.grpc { // also answers that are no failure elsewhere, as in Envoy
		x.rec.Status, x.rec.GRPCStatus = 200, itoa(grpc)
		err = x.answerGRPC(grpc, body)
	} else {
		err = x.answerHTTP(status, body)
	}
	if err != nil {
		x.rec.Flags |= telemetry.DownstreamTermination
		x.keepAlive = false
	}
}

func (x *exchange) answerHTTP(status int, body string) error {
	res := &x.res
	res.Reset()
	res.Status = status
	bodyless := status == 204 || status == 304
	if bodyless { // what followed the head would be the next response (RFC 9112 section 6.3)
		body = ""
	}
	res.Framing, res.Length, res.HasLength = header.Length, int64(len(body)), !bodyless
	if body != "" {
		res.Fields.Add("content-type", "text/plain")
	}
	x.addExtra(&res.Fields)
	if x.route != nil && x.route.Forward == nil {
		x.apply(&res.Fields, &x.route.Response)
	}
	if x.allowedOrigin != "" {
		x.decorate(&res.Fields)
	}
	res.Fields.Add("date", httpDate(time.Now()))
	res.Fields.Add("server", x.serverName())
	end := body == "" || x.method == "HEAD"
	if err := x.c.head(res, end); err != nil {
		return err
	}
	if !end {
		x.rec.BytesSent += res.Length
		if err := x.c.data(stringBytes(body), true); err != nil {
			return err
		}
	}
	return x.c.flush()
}

func (x *exchange) serverName() string {
	if x.chain != nil && x.chain.HTTP.ServerName != "" {
		return x.chain.HTTP.ServerName
	}
	return "istio-envoy"
}

// drainBody reads over what is left of a request's body if that is little and
// already here; otherwise the connection cannot be used again.
func (x *exchange) drainBody() bool {
	for !x.c.Complete() {
		if !x.c.AllBuffered() {
			return false
		}
		if _, _, err := x.c.Next(); err != nil {
			return false
		}
	}
	return true
}

// refuseProtocol answers bytes that are not a request. The connection ends:
// where the next request would begin is anybody's guess.
func (x *exchange) refuseProtocol(e *h1.Error) {
	defer x.record()
	x.d.p.stats.protocolErrors.Add(1)
	x.keepAlive = false
	x.rec.Flags |= telemetry.DownstreamProtocolError
	x.rec.Details = e.Detail
	x.answer(e.Status, "")
}

// deny answers what authorization refused.
func (x *exchange) deny(d *authz.Decision) {
	x.denied(d)
	if d.Token != nil {
		x.denyToken(d.Token)
		return
	}
	if v := d.External; v != nil {
		x.rec.Details = d.Details()
		if v.Local == "" {
			x.rec.Flags |= telemetry.ExternalDenied
		}
		status := v.Status
		if v.Err != nil {
			x.d.p.log.Warn("external authorization failed", "provider", d.Provider, "policy", d.Policy, "err", v.Err)
		} else {
		}
		x.refusal = v.Headers
		if status == 0 {
			status = 403
		}
		x.answer(status, v.Body)
		return
	}
	x.rec.Details = d.Details()
	x.answer(403, "RBAC: access denied")
}

// direct answers a directResponse route.
func (x *exchange) direct() {
	d := x.route.Direct
	x.rec.Details = "direct_response"
	if x.route.VirtualHost != nil && x.route.VirtualHost.Name == "block_all" {
		x.rec.Details = blackHole.details
	}
	body := d.Body
	if d.Bytes != nil {
		body = view(d.Bytes)
	}
	x.answer(d.Status, body)
}
