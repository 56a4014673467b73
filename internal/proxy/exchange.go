package proxy

import (
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// exchange is one request and its response, whatever protocols carry them. It
// is reused from request to request; strings in it alias its codecs' buffers.
// One goroutine owns it.
type exchange struct {
	kept
	current
}

// kept is what outlives a request: the connection, and memory that is used
// again.
type kept struct {
	d *downstream // the connection it came on
	c caller

	req, res  header.Head
	tried     []*upstream.Host
	tries     []telemetry.Try // those before the current one
	copies    []*mirror
	bodyBuf   []byte // memory of body
	target    []byte // a rewritten path with its query
	extra     []ir.Header
	allowed   []authz.ResponseHeader // of authorizers that said yes
	series    *telemetry.Series      // of the last request: usually of the next one too
	seriesKey telemetry.SeriesKey
}

// current is what concerns this request alone.
type current struct {
	rt    *runtime
	chain *chain

	fwd    header.Head // the request as it goes upstream; shares req's fields
	path   string      // normalized, without query: one path for routing, authorization and forwarding
	query  string      // with its "?"
	scheme string
	method string
	http2  bool // the caller speaks it
	grpc   bool

	authz  authz.Input
	match  route.Request
	route  *route.Route
	miss   route.Miss // why route is nil
	looked bool       // for a route
	wc     *ir.WeightedCluster

	cluster *upstream.Cluster
	host    *upstream.Host
	busy    *upstream.Host // counts this request: host, unless between tries
	up      upstream.Carrier
	hashed  upstream.Hash // what consistent hashing looked at
	attempt int

	start    time.Time
	sentAt   time.Time     // of the current try
	ended    bool          // the request is here, and the timeouts count
	deadline time.Time     // of the whole exchange; zero for none
	limit    time.Time     // of the current try, deadline included; zero for none
	held     time.Duration // by a delay fault
	tryAt    time.Time     // the current try began
	timeouts timeouts

	allowedOrigin string      // by the route's CORS policy
	debug         string      // the credential that came with debugHeader, right or wrong
	refusal       []ir.Header // of an authorizer that said no

	body      []byte // what was read of the request's body before the current try
	bodyDone  bool   // body is all of it
	lost      bool   // more was read than body has, so that no try can be repeated
	replied   bool   // a response head went downstream
	keepAlive bool   // the downstream connection goes on after this exchange
	whole     bool   // the response was passed on whole
	why       *local // the answer of our own, if there was one
	// upKeepsAlive: the upstream lets its connection live after its response.
	upKeepsAlive bool
	pump         *pump
	rec          telemetry.Record
	idText       [36]byte
	expected     [20]byte // the digits of this try's x-envoy-expected-rq-timeout-ms
}

// reset forgets the last exchange and keeps its memory.
func (x *exchange) reset() {
	x.current = current{}
	x.tried, x.tries, x.copies, x.target = x.tried[:0], x.tries[:0], x.copies[:0], x.target[:0]
	x.extra, x.allowed = x.extra[:0], x.allowed[:0]
}

// begin is the moment the request's head is there.
func (x *exchange) begin() {
	x.start = time.Now()
	x.rec.Start = x.start
	x.rt, x.chain = x.d.rt, x.d.chain
}

// handle is the request path. Each step either goes on or has answered and
// returns false; record runs on every exit. It reports whether the connection
// can carry another request.
func (x *exchange) handle() (again bool) {
	x.keepAlive = x.req.KeepAlive
	x.http2 = x.c.protocol() == telemetry.HTTP2
	defer x.returnUpstream() // after record, which looks at what lies in its buffers
	defer x.record()
	if x.shed() || !x.identify() || !x.authorize() || !x.chooseRoute() {
		return x.finished()
	}
	if (x.route.Fault != nil || x.route.CORS != nil) && x.filtered() {
		return x.finished()
	}
	switch {
	case x.route.Redirect != nil:
		x.redirect()
	case x.route.Direct != nil:
		x.direct()
	default:
		x.forward()
	}
	return x.finished()
}

// identify settles who asks and for what: the scheme, one normalized path, the
// headers that tell the next hop about this one.
func (x *exchange) identify() bool {
	x.method = x.req.Method
	x.scheme = "http"
	if x.chain.TLS != nil {
		x.scheme = "https"
	}
	path, query := x.req.Path, ""
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path, query = path[:i], path[i:]
	}
	normal, err := route.NormalizePath(x.chain.HTTP.PathNormalization, path)
	if err != nil {
		x.reply(&badPath)
		return false
	}
	x.path, x.query = normal, query
	x.grpc = isGRPC(&x.req.Fields)
	if x.method == "CONNECT" || x.req.Upgrade != "" && !x.upgradeAllowed() { // without path it would pass for a request that has one
		x.reply(&upgradeRefused)
		return false
	}
	x.stampHeaders()
	return true
}

func (x *exchange) upgradeAllowed() bool {
	if strings.EqualFold(x.req.Upgrade, "h2c") { // an offer, not a demand: we stay with HTTP/1.1
		x.req.Upgrade = ""
		return true
	}
	for _, u := range x.chain.upgrades {
		if strings.EqualFold(u, x.req.Upgrade) {
			return true
		}
	}
	return false
}

// authorize runs the chain's policies: CUSTOM, JWT, DENY, ALLOW.
func (x *exchange) authorize() bool {
	if len(x.chain.Filters) == 0 {
		return true
	}
	x.authz = x.input()
	decision := x.chain.authz.Check(&x.authz, x)
	if decision.Allow && !decision.Marked() {
		return true
	}
	notable := decision // moves to the heap, which decision must not for every request
	if notable.Marked() {
		x.d.judged(x.chain, &notable, &x.rec)
	}
	if !notable.Allow {
		x.deny(&notable)
	}
	return decision.Allow
}

// input is the request as policies see it.
func (x *exchange) input() authz.Input {
	d := x.d
	return authz.Input{
		Principal: d.peer, SourceIP: d.remote.Addr(), RemoteIP: x.remoteIP(), DestinationIP: d.local.Addr(),
		DestinationPort: d.local.Port(), SNI: d.sni, HTTP: true,
		Host: x.req.Host, Method: x.method, Path: x.path, Query: x.query, Headers: &x.req,
	}
}

// chooseRoute finds the route, then the cluster.
func (x *exchange) chooseRoute() bool {
	if x.chain.routes == nil {
		x.reply(&noRouteTable)
		return false
	}
	if !x.looked || x.authz.Token != nil { // a verified token clears the route cache (Istio's jwt_authn)
		x.lookUpRoute()
	}
	if x.route == nil {
		if x.miss == route.NoVirtualHost {
			x.reply(&noVirtualHost)
		} else {
			x.reply(&noRoute)
		}
		return false
	}
	x.rec.Route = x.route.Name
	return true
}

// lookUpRoute matches the request as it is now. An authorizer's changes come
// after it, unless its provider says clearRouteCache.
func (x *exchange) lookUpRoute() {
	query := x.query
	if query != "" {
		query = query[1:]
	}
	x.match = route.Request{Method: x.method, Scheme: x.scheme, Host: x.req.Host, Path: x.path, Query: query, Headers: &x.req}
	if x.authz.Token != nil {
		x.match.Claims = x.authz.Token
	}
	x.route, x.miss = x.chain.routes.Match(&x.match)
	x.looked = true
}

// finished reports whether the next request may be read from the connection.
func (x *exchange) finished() bool {
	return x.keepAlive && x.c.Complete() && !x.c.drains()
}

// record is the last step of every exchange: access log and metrics.
func (x *exchange) record() {
	r := &x.rec
	r.Duration = time.Since(x.start)
	x.describe(r)
	x.noteLastTry()
	r.Attempts = x.attempt
	x.d.p.stats.requests.Add(1)
	x.observe(r)
	if x.route != nil && x.route.StatPrefix != "" {
		x.rt.routeStats[x.route.Route].count(r)
	}
	if x.failed() {
		x.keepFailure()
	}
	if x.chain.log != nil {
		x.chain.log.Log(x.chain.format, r)
	}
}

// describe fills in what is known of the request before its end. Header
// operators read it too.
func (x *exchange) describe(r *telemetry.Record) {
	d := x.d
	r.Protocol = x.c.protocol()
	r.Method, r.Path, r.Authority, r.Request = x.method, x.req.Path, x.req.Host, &x.req.Fields
	if x.res.Status != 0 {
		r.Response = &x.res.Fields
	}
	r.DownstreamLocal, r.DownstreamRemote, r.SNI = d.localText, d.remoteText, d.sni
	r.PeerPrincipal, r.LocalPrincipal, r.Version = d.peer, x.rt.principal, x.rt.version
	r.TLSVersion, r.TLSCipher = d.tlsVersion, d.tlsCipher
}

// observe counts the request in Istio's standard metrics.
func (x *exchange) observe(r *telemetry.Record) {
	key := telemetry.SeriesKey{Status: r.Status, Flags: r.Flags}
	d := x.d
	if x.cluster != nil {
		key.Service = x.cluster.Service()
	}
	if x.chain.outbound {
		key.Reporter, key.Source = telemetry.Source, x.rt.self
		if x.host != nil {
			key.Target = x.host.Peer()
		}
	} else {
		key.Reporter, key.Source, key.Target = telemetry.Destination, d.peerInfo.Load(), x.rt.self
		key.MutualTLS = d.peer != ""
	}
	if x.grpc {
		key.GRPC = true
		if code, err := strconv.Atoi(r.GRPCStatus); err == nil {
			key.GRPCStatus = int16(code)
		}
	}
	if x.series == nil || x.seriesKey != key {
		x.series, x.seriesKey = d.p.metrics.Series(key), key
	}
	if x.series != nil {
		x.series.Request(r.Duration, r.BytesReceived, r.BytesSent)
	}
}
