package proxy

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/h1"
	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

const (
	replayLimit     = 64 << 10 // bodies up to here are read ahead, so that a try can be repeated
	pollInterval    = time.Second
	previousHostTry = 5 // further draws of the balancer, Istio's host_selection_retry_max_attempts
)

// failure is how a try ended without a response.
type failure struct {
	*local
	kind failureKind
}

type failureKind uint8

const (
	failConnect failureKind = iota // nothing was sent
	failRefused                    // the upstream says that it has not looked at the request
	failReset                      // the connection broke after something was sent
	failTry                        // perTryTimeout
	failFinal                      // not to be retried: no host, overflow, caller gone, total timeout
)

// forward sends the request upstream: pick, pool, try, and again as the retry
// policy allows; then relays what came back or answers why nothing did.
func (x *exchange) forward() {
	f := x.route.Forward
	if !x.chooseCluster(f) {
		return
	}
	x.setTimeouts(f)
	if !x.cluster.BeginRequest() {
		x.reply(&overflow)
		return
	}
	defer x.cluster.EndRequest()
	defer x.leaveHost()
	x.prepareRequest(f)
	if !x.readAhead() {
		return
	}
	if x.bodyDone {
		x.requestEnded(x.endOfRequest())
	}
	if f.Mirrors != nil {
		x.mirror(f)
		defer x.endMirrors()
	}
	x.tryAt = x.start.Add(x.held)
	for {
		x.attempt++
		fail := x.try(f)
		if x.attempt > 1 { // mayRetry took a place for it
			x.cluster.EndRetry()
		}
		if x.mayRetry(f, fail) {
			x.noteTry(fail)
			x.retryAfterPause(f)
			x.tryAt = time.Now()
			continue
		}
		if fail != nil {
			x.abandon()
			x.reply(fail.local)
		} else {
			x.relay()
		}
		return
	}
}

// chooseCluster draws one of the weighted clusters.
func (x *exchange) chooseCluster(f *ir.Forward) bool {
	at := 0
	if len(f.Clusters) > 1 {
		at = x.route.PickCluster(rand.Uint64())
	}
	x.wc = &f.Clusters[at]
	x.rec.Cluster = x.wc.Name
	x.cluster = x.rt.clusters[x.wc.Name]
	switch {
	case x.cluster == nil:
		x.reply(&noCluster)
	case x.wc.Name == ir.BlackHoleCluster:
		x.reply(&blackHole)
	default:
		return true
	}
	return false
}

// prepareRequest applies what the route says about the request; once, however
// many tries follow.
func (x *exchange) prepareRequest(f *ir.Forward) {
	h := &x.req.Fields
	if f.AppendForwardedHost && x.upstreamHost(f) != x.req.Host {
		appendField(h, "x-forwarded-host", x.req.Host)
	}
	if !x.wc.Request.IsZero() { // the more specific first, so that the route's word counts (Envoy)
		x.apply(h, &x.wc.Request)
	}
	if !x.route.Request.IsZero() {
		x.apply(h, &x.route.Request)
	}
	if f.PrefixRewrite != "" || f.RegexRewrite != nil {
		h.Set("x-envoy-original-path", x.req.Path)
		x.path = x.route.RewritePath(x.path)
	}
}

// upstreamHost is the authority that the upstream sees.
func (x *exchange) upstreamHost(f *ir.Forward) string {
	switch {
	case f.HostRewrite != "":
		return f.HostRewrite
	case x.wc.HostRewrite != "":
		return x.wc.HostRewrite
	}
	return x.req.Host
}

// try makes one attempt. On success the response's head is in x.res and x.up
// is positioned at its body.
func (x *exchange) try(f *ir.Forward) *failure {
	draws := 0 // without PreviousHosts, the first draw counts
	if f.Retry != nil && f.Retry.PreviousHosts && len(x.tried) > 0 {
		draws = max(f.Retry.HostAttempts, previousHostTry)
	}
	if f.Retry != nil && f.Retry.PreviousPriorities && len(x.tried) > 0 {
		x.host = x.cluster.PickBeyond(x.hash(f), x.d.target(), x.tried, draws)
	} else {
		x.host = x.cluster.PickBy(x.hash(f), x.d.target(), x.tried, draws)
	}
	if x.host == nil {
		return &failure{&noHealthy, failFinal}
	}
	x.tried = append(x.tried, x.host)
	x.rec.UpstreamHost = x.host.Address
	x.host.Begin()
	x.busy = x.host

	// A request that must not be sent twice gets a connection that is known to
	// be open; one that may be gets another chance on a fresh connection.
	idempotent := x.bodyDone && safeToRepeat(x.method)
	for fresh := false; ; fresh = true {
		x.limit = x.deadline // the try's own begins with its connection (Envoy)
		if fail := x.connect(fresh, !idempotent); fail != nil {
			return fail
		}
		x.limitTry(time.Time{})
		fail := x.exchangeOnce()
		if fail == nil {
			if !x.grpc { // a gRPC call says how it went when it ends
				x.report(upstream.Outcome{Status: x.res.Status})
			}
			return nil
		}
		reused, silent := x.up.Reused() && !fresh, x.up.Buffered() == 0
		x.closeUpstream()
		if reused && (idempotent && fail.kind == failReset && silent || !x.lost && fail.kind == failRefused) {
			continue // the pool's fault, not the host's: does not count as a try
		}
		if fail.kind != failFinal {
			x.report(upstream.Outcome{Local: true})
		}
		return fail
	}
}

// leaveHost ends what try began: with the response's end or before another try.
func (x *exchange) leaveHost() {
	if x.busy != nil {
		x.busy.End()
		x.busy = nil
	}
}

func (x *exchange) report(o upstream.Outcome) { x.cluster.Report(x.host, o) }

func safeToRepeat(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

func (x *exchange) connect(fresh, check bool) *failure {
	up, err := x.cluster.AcquireFor(x.d.origin(), x.host, upstream.Want{Deadline: x.limit, HTTP2: x.http2, Fresh: fresh, Check: check, Caller: x})
	if err == nil {
		x.up = up
		x.c.watch(up)
		x.rec.UpstreamLocal = up.LocalText()
		return nil
	}
	switch { // nobody has tried to connect
	case errors.Is(err, upstream.ErrOverflow):
		return &failure{&overflow, failFinal}
	case errors.Is(err, upstream.ErrGone):
		return &failure{&clientGone, failFinal}
	case errors.Is(err, upstream.ErrDeadline):
		return x.timedOut()
	}
	x.rec.Failure = err.Error()
	x.report(upstream.Outcome{Local: true})
	var ne net.Error
	var handshake *upstream.HandshakeError
	switch {
	case x.overLimit():
		return x.timedOut()
	case errors.As(err, &handshake):
		return &failure{&tlsFailure, failConnect}
	case errors.As(err, &ne) && ne.Timeout():
		return &failure{&connectTimeout, failConnect}
	}
	return &failure{&connectFailure, failConnect}
}

// Gone implements upstream.Caller.
func (x *exchange) Gone() bool { return x.c.gone() }

// timedOut tells the exchange's deadline from the try's.
func (x *exchange) timedOut() *failure {
	if !x.deadline.IsZero() && !time.Now().Before(x.deadline) {
		return &failure{&requestTimeout, failFinal}
	}
	return &failure{&tryTimeout, failTry}
}

// exchangeOnce sends the request and waits for the response's head.
func (x *exchange) exchangeOnce() *failure {
	x.sentAt = time.Now()
	if err := x.send(); err != nil {
		switch {
		case errors.Is(err, h2.ErrNoExtendedConnect):
			return &failure{&noUpgrade, failFinal}
		case errors.Is(err, upstream.ErrUnsettled):
			return &failure{&connectTimeout, failConnect}
		}
		// The upstream may have answered before it closed: look.
	}
	for {
		err := x.awaitHead()
		if err != nil {
			return x.classify(err)
		}
		if x.res.Status == 200 && x.fwd.Upgrade != "" && x.up.Protocol() == telemetry.HTTP2 {
			x.res.Status, x.res.Upgrade = 101, x.fwd.Upgrade // an accepted extended CONNECT
		}
		if x.res.Status == 101 && x.fwd.Upgrade == "" { // nobody asked: a tunnel would carry whatever the caller sends next
			return &failure{&upstreamBad, failReset}
		}
		if x.res.Status >= 200 || x.res.Status == 101 {
			break
		}
		// Interim responses are this hop's affair: 100 was answered when the
		// body was read, the others tell nothing that HTTP/1.1 clients need.
	}
	x.rec.UpstreamTime, x.rec.HasUpstreamTime = time.Since(x.sentAt), true
	return nil
}

// errDownstreamGone: the caller left while the upstream was thinking.
var errDownstreamGone = errors.New("downstream closed")

// awaitHead waits for a response head until the try's limit, looking after the
// caller once in a while: if it has gone there is nobody to wait for.
func (x *exchange) awaitHead() error {
	for now := x.sentAt; ; now = time.Now() { // the first wait usually suffices
		x.seeRequestEnd()
		wake := now.Add(2 * pollInterval)
		slack := pollInterval
		if !x.ended {
			wake, slack = now.Add(x.timeouts.lookAgain()), 0
		}
		if !x.limit.IsZero() && x.limit.Before(wake) {
			wake, slack = x.limit, 0
		}
		x.up.SetReadBy(wake, slack)
		err := x.up.ReadHead(&x.res)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		x.up.ClearReadBy()
		if x.overLimit() {
			return err
		}
		if x.pump != nil && x.pump.failedDownstream() || x.c.gone() {
			return errDownstreamGone
		}
	}
}

// overLimit reports whether the current try's time is over.
func (x *exchange) overLimit() bool { return !x.limit.IsZero() && !time.Now().Before(x.limit) }

// classify turns an error on the upstream connection into a failure.
func (x *exchange) classify(err error) *failure {
	var protocol *h1.Error
	var reset *h2.StreamError
	switch {
	case errors.Is(err, errDownstreamGone), x.c.leaving(), x.pump != nil && x.pump.failedDownstream():
		return x.callerFailed()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return x.timedOut()
	case errors.As(err, &protocol):
		x.rec.Failure = protocol.Detail
		return &failure{&upstreamBad, failReset}
	case errors.Is(err, h2.ErrGoingAway): // the connection ended, or its peer is leaving, before the stream began
		return &failure{&upstreamReset, failRefused}
	case h2.RetrySafe(err):
		return &failure{&refusedStream, failRefused}
	case errors.As(err, &reset):
		x.rec.Failure = reset.Error()
		if reset.Remote {
			return &failure{&remoteReset, failReset}
		}
		return &failure{&upstreamBad, failReset}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		x.rec.Failure = err.Error()
	}
	return &failure{&upstreamReset, failReset}
}

// callerFailed is how a try ends because of the caller: it has left, or the
// body it was sending is not HTTP.
func (x *exchange) callerFailed() *failure {
	var protocol *h1.Error
	if x.pump == nil || !x.pump.failedDownstream() || !errors.As(x.pump.err, &protocol) {
		return &failure{&clientGone, failFinal}
	}
	x.d.p.stats.protocolErrors.Add(1)
	return &failure{&local{flag: telemetry.DownstreamProtocolError, status: protocol.Status, grpc: 3, details: protocol.Detail}, failFinal}
}

// closeUpstream gives up the current upstream connection.
func (x *exchange) closeUpstream() {
	x.stopPump() // it writes to the upstream
	if x.up != nil {
		x.c.watch(nil)
		x.up.Close()
		x.up = nil
	}
}

// abandon is closeUpstream at the end of an exchange.
func (x *exchange) abandon() { x.closeUpstream() }
