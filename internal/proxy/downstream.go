package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
	"github.com/tulle-mesh/tulle/internal/wire"
)

const handshakeTimeout = 15 * time.Second

// downstream is one accepted connection, from accept to close. Its fields are
// written by serve before the protocol takes over and read-only afterwards,
// except those guarded by mu.
type downstream struct {
	p      *Proxy
	socket netip.AddrPort
	raw    net.Conn   // the TCP connection
	wire   *wire.Conn // raw, as something that can be waited on; nil where the network is not TCP
	conn   net.Conn   // what the protocol reads: raw, with sniffed bytes put back, or TLS on it

	rt    *runtime // the configuration now in use; only the serving goroutine writes it
	chain *chain

	remote, local         netip.AddrPort // local: the original destination
	remoteText, localText string
	direct                bool // made to the listener's own socket, not redirected to it
	hello                 hello
	sni                   string
	peer                  string // SPIFFE ID that TLS proved
	peerNamespace         string
	xfcc                  string // the peer's certificate as x-forwarded-client-cert describes it
	tlsVersion, tlsCipher string
	edge                  *Edge // what the connection proved; the proxy's

	fd   syscall.RawConn
	gone bool // scratch of closedByPeer
	poll func(fd uintptr)

	// peerInfo is what the peer says of its workload, with its first request;
	// metrics only. TLS may have proved no more than the principal.
	peerInfo atomic.Pointer[telemetry.Peer]

	mu      sync.Mutex
	idle    bool // between requests: may be closed at any time
	closing bool // close when the current request is over
	closed  bool
	// waiting is what an HTTP/1.1 exchange holds of the upstream: abort ends it,
	// or the exchange would go on waiting for an answer that nobody takes.
	waiting upstream.Carrier
	watches map[*watch]struct{} // what goes on here and is decided anew by every configuration
	// shutdown lets a connection that carries several requests at once end by
	// itself; set by HTTP/2.
	shutdown func()
}

func newDownstream(p *Proxy, address netip.AddrPort, raw net.Conn) *downstream {
	d := &downstream{p: p, socket: address, raw: raw, conn: wire.Wrap(raw)}
	d.wire, _ = d.conn.(*wire.Conn)
	return d
}

// serve decides what the connection is and hands it to its protocol: original
// destination → listener → sniff → filter chain → TLS → HTTP or TCP.
// It returns what stands idle and goes on in rest; nil: the connection is over.
func (d *downstream) serve() (idle *resting) {
	defer func() {
		if idle == nil {
			d.raw.Close()
		}
	}()
	d.p.stats.connections.Add(1)
	d.rt = d.p.runtime.Load()
	l := d.findListener()
	if l == nil {
		return nil
	}
	hello, ok := d.inspect(l)
	if !ok {
		return nil
	}
	if d.chain = l.match(d.local, hello); d.chain == nil {
		d.refuse(telemetry.NoRoute, "filter_chain_not_found")
		return nil
	}
	d.hello, d.sni = hello, hello.serverName
	if d.chain.tls != nil {
		if err := d.handshake(); err != nil {
			d.p.stats.handshakeErrors.Add(1)
			d.p.log.Info("TLS handshake failed", "listener", l.Name, "from", d.remoteText, "refused", d.p.stats.peers.Count(err), "err", err)
			return nil
		}
	}
	d.noteEdge()
	if d.chain.HTTP != nil {
		return d.serveHTTP()
	}
	d.serveTCP()
	return nil
}

// serveHTTP speaks the protocol that TLS agreed on or, failing that, the one
// the first bytes show (Envoy's codec type AUTO).
func (d *downstream) serveHTTP() (idle *resting) {
	if tc, ok := d.conn.(*tls.Conn); ok {
		if p := tc.ConnectionState().NegotiatedProtocol; p == "h2" || p == "istio-h2" {
			d.serveHTTP2(nil)
			return nil
		}
	}
	c := newHTTP1Conn(d)
	if !d.enterIdle() {
		return nil
	}
	d.conn.SetReadDeadline(time.Now().Add(d.idleTimeout()))
	if prior, _ := c.HasPrefix(h2.Preface); prior && d.leaveIdle() {
		d.serveHTTP2(c.Take())
		return nil
	}
	return c.serve()
}

// findListener follows the original destination to the listener that owns it.
func (d *downstream) findListener() *listener {
	l := d.rt.bound[d.socket]
	if l == nil { // the address left the configuration while this connection waited
		return nil
	}
	d.remote = addrPort(d.raw.RemoteAddr())
	d.local = addrPort(d.raw.LocalAddr())
	if tc, ok := d.raw.(*net.TCPConn); ok {
		d.fd, _ = tc.SyscallConn()
	}
	if l.UseOriginalDst {
		if dst, ok := d.p.opts.OriginalDst(d.raw); ok {
			d.local = dst
		}
	}
	d.poll = d.pollFD
	d.remoteText, d.localText = d.remote.String(), d.local.String()
	if !l.UseOriginalDst {
		d.direct = true
		return l
	}
	if to := d.rt.byDst[d.local]; to != nil && to.Direction == l.Direction {
		return to
	}
	if to := d.rt.byDstPort[d.local.Port()]; to != nil && to.Direction == l.Direction {
		return to
	}
	if d.local == d.socket || d.local.Port() == d.socket.Port() {
		// Somebody connected to the proxy's own port: forwarding would loop.
		d.refuse(telemetry.NoRoute, "loop")
		return nil
	}
	return l
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// handshake runs the server side and keeps what it proved.
func (d *downstream) handshake() error {
	tc := tls.Server(d.conn, d.chain.tls)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	state := tc.ConnectionState()
	d.conn = tc
	d.tlsVersion, d.tlsCipher = strings.Replace(tls.VersionName(state.Version), "TLS 1.", "TLSv1.", 1), tls.CipherSuiteName(state.CipherSuite)
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		if d.chain.HTTP != nil {
			d.xfcc = clientCertDetails(d.chain.FilterChain, d.rt.principal, leaf)
		}
		if len(leaf.URIs) > 0 {
			d.peer = leaf.URIs[0].String()
			d.peerNamespace = namespaceOf(d.peer)
		}
	}
	d.peerInfo.Store(&telemetry.Peer{Principal: d.peer, Namespace: d.peerNamespace})
	return nil
}

func namespaceOf(spiffe string) string {
	_, rest, _ := strings.Cut(spiffe, "/ns/")
	ns, _, _ := strings.Cut(rest, "/")
	return ns
}

// refuse records a connection that no filter chain took, and resets it.
func (d *downstream) refuse(flag telemetry.Flags, details string) {
	d.p.stats.refused.Add(1)
	d.p.log.Info("connection refused", "from", d.remoteText, "to", d.localText, "sni", d.sni, "flag", flag.String(), "details", details)
	d.reset()
}

// reset makes the close a RST: the peer sees "connection reset", not an empty
// answer.
func (d *downstream) reset() {
	if tc, ok := d.raw.(interface{ SetLinger(sec int) error }); ok {
		tc.SetLinger(0)
	}
}

// closedByPeer reports whether the peer has gone, without reading.
func (d *downstream) closedByPeer() bool {
	if d.fd == nil {
		c, ok := d.raw.(interface{ PeerClosed() bool }) // a connection without kernel: tests
		return ok && c.PeerClosed()
	}
	d.gone = false
	// Not fd.Read: that waits for whoever reads the request's body.
	return d.fd.Control(d.poll) != nil || d.gone // an error: it is closed
}

// follow takes up the configuration in force: one request sees one
// configuration from here to its end. false: the filter chain of this
// connection no longer exists, so the connection ends unanswered, as an idle
// one does. Only the goroutine that reads the connection may call it.
func (d *downstream) follow() bool {
	rt := d.p.runtime.Load()
	if rt == d.rt {
		return true
	}
	chain := rt.chainFor(d, d.chain)
	if chain == nil || chain.HTTP == nil {
		return false
	}
	d.rt, d.chain = rt, chain
	return true
}

// enterIdle marks the connection as being between requests; false: it must
// close instead.
func (d *downstream) enterIdle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = !d.closing
	return d.idle
}

// leaveIdle is called when a request begins; false: somebody closed the
// connection while it was idle.
func (d *downstream) leaveIdle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = false
	return !d.closed
}

func (d *downstream) isClosing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closing
}

// closeIfIdle ends the connection now if it is between requests, else after
// the current one.
func (d *downstream) closeIfIdle() {
	d.mu.Lock()
	d.closing = true
	shutdown := d.shutdown
	if shutdown == nil && d.idle && !d.closed {
		d.closed = true
		d.raw.Close()
	}
	d.mu.Unlock()
	if shutdown != nil {
		shutdown()
	}
}

// setShutdown takes over how the connection ends; false: it is ending already.
func (d *downstream) setShutdown(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shutdown = f
	return !d.closing
}

// abort closes the connection whatever it is doing.
func (d *downstream) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closing, d.closed = true, true
	d.raw.Close()
	if d.waiting != nil {
		d.waiting.Abort()
	}
}

// isClosed reports whether somebody else has ended the connection.
func (d *downstream) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}
