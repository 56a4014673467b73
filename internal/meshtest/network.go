package meshtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// network is every pod's network in memory: addresses as in the manifests,
// service addresses translated as kube-proxy does, redirection as the rules of
// internal/capture do it. Nothing of it touches the kernel.
type network struct {
	mu    sync.Mutex
	hosts map[netip.Addr]*host
	// services translate service addresses; replaced with each configuration.
	services map[netip.AddrPort][]netip.AddrPort
	next     uint64 // round robin over their instances
	links    []*link
}

// host is one network namespace.
type host struct {
	net  *network
	name string
	addr netip.Addr

	latency atomic.Int64 // nanoseconds to and from here, one way

	// Guarded by net.mu.
	captured  bool // a sidecar takes its connections, both ways
	listeners map[uint16]*listener
	port      uint16 // last ephemeral port
	dropped   bool   // packets to it vanish: connections hang until they time out
	refusing  bool   // connections to it are refused, as where nothing runs any more
}

func newNetwork() *network {
	return &network{hosts: map[netip.Addr]*host{}, services: map[netip.AddrPort][]netip.AddrPort{}}
}

func (n *network) host(name string, addr netip.Addr) *host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &host{net: n, name: name, addr: addr, listeners: map[uint16]*listener{}, port: 32767}
	n.hosts[addr] = h
	return h
}

// closeAll ends every connection that is still open, so that no goroutine
// outlives the test.
func (n *network) closeAll() {
	n.mu.Lock()
	links := n.links
	n.links = nil
	n.mu.Unlock()
	for _, l := range links {
		l.ends[0].Close()
		l.ends[1].Close()
	}
}

// Ports and addresses that redirection knows.
const (
	outboundPort = 15001
	inboundPort  = 15006
)

var (
	loopback     = netip.MustParseAddr("127.0.0.1")
	proxyInbound = netip.MustParseAddr("127.0.0.6") // the source of a sidecar's connections to its application
)

// dial connects as the application of the namespace does.
func (h *host) dial(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	return h.connect(ctx, dst, false, netip.Addr{})
}

// dialProxy connects as the proxy of the namespace does: its packets carry the
// mark that the rules let pass.
func (h *host) dialProxy(ctx context.Context, address string, bind netip.Addr) (net.Conn, error) {
	dst, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return h.connect(ctx, dst, true, bind)
}

func (h *host) connect(ctx context.Context, dst netip.AddrPort, marked bool, bind netip.Addr) (net.Conn, error) {
	h.net.mu.Lock()
	to, port, arriving := h.net.route(h, dst, marked, bind)
	dropped := to != nil && to.dropped && to != h
	h.net.mu.Unlock()
	if dropped {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: ctx.Err()}
	}
	if to == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: syscall.EHOSTUNREACH}
	}
	c, err := h.open(ctx, to, port, arriving, bind)
	if err != nil {
		return nil, err
	}
	c.remote = dst // the caller sees what it asked for
	return c, nil
}

// route follows the packet filter: which namespace and port a connection
// really arrives at, and as a connection to which address. The lock is held.
func (n *network) route(h *host, dst netip.AddrPort, marked bool, bind netip.Addr) (*host, uint16, netip.AddrPort) {
	own := dst.Addr().IsLoopback() || dst.Addr() == h.addr
	if h.captured {
		switch { // the chain "output", rule by rule
		case marked && bind == proxyInbound:
		case marked && own && !dst.Addr().IsLoopback():
			return h, inboundPort, dst
		case marked, own:
		default:
			return h, outboundPort, dst
		}
	}
	if own {
		return h, dst.Port(), dst
	}
	if instances, ok := n.services[dst]; ok {
		if len(instances) == 0 {
			return nil, 0, dst
		}
		dst = instances[n.next%uint64(len(instances))]
		n.next++
	}
	to := n.hosts[dst.Addr()]
	if to != nil && to.captured && !unredirected[dst.Port()] { // the chain "prerouting"
		return to, inboundPort, dst
	}
	return to, dst.Port(), dst
}

// unredirected ports of a sidecar are reached directly: probes and metrics.
var unredirected = map[uint16]bool{15020: true, 15021: true, 15090: true}

// open completes the handshake with whoever listens.
func (h *host) open(ctx context.Context, to *host, port uint16, dst netip.AddrPort, bind netip.Addr) (*conn, error) {
	n := h.net
	n.mu.Lock()
	l := to.listeners[port]
	if to.refusing && to != h {
		l = nil
	}
	latency := func() time.Duration {
		if to == h {
			return 0
		}
		return time.Duration(max(h.latency.Load(), to.latency.Load()))
	}
	h.port++
	source, target := h.addr, to.addr
	if dst.Addr().IsLoopback() || to == h && port == outboundPort {
		target = loopback
	}
	if dst.Addr().IsLoopback() {
		source = loopback
	}
	if bind.IsValid() {
		source = bind
	}
	original := netip.AddrPort{}
	if at := netip.AddrPortFrom(target, port); at != dst {
		original = dst
	}
	a, b := newLink(netip.AddrPortFrom(source, h.port), netip.AddrPortFrom(target, port), original, latency)
	n.links = append(n.links, a.link)
	n.mu.Unlock()
	if d := latency(); d > 0 && !pause(ctx, 2*d) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: ctx.Err()}
	}
	if l == nil || !l.deliver(b) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: syscall.ECONNREFUSED}
	}
	return a, nil
}

// listener is a listening socket of a namespace.
type listener struct {
	host *host
	addr netip.AddrPort
	new  chan net.Conn
	done chan struct{}
	once sync.Once
}

// backlog of connections that nobody has accepted; more are refused.
const backlog = 1024

// listen opens a port of the namespace.
func (h *host) listen(addr netip.AddrPort) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.listeners[addr.Port()] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{host: h, addr: addr, new: make(chan net.Conn, backlog), done: make(chan struct{})}
	h.listeners[addr.Port()] = l
	return l, nil
}

func (l *listener) deliver(c net.Conn) bool {
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.new <- c:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.new:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
}

// Close stops listening; what nobody has accepted is reset.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.host.net.mu.Lock()
		if l.host.listeners[l.addr.Port()] == l {
			delete(l.host.listeners, l.addr.Port())
		}
		l.host.net.mu.Unlock()
		for {
			select {
			case c := <-l.new:
				c.(*conn).SetLinger(0)
				c.Close()
				continue
			default:
			}
			return
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// originalDst is proxy.Options.OriginalDst.
func originalDst(c net.Conn) (netip.AddrPort, bool) {
	mine, ok := c.(*conn)
	if !ok || !mine.original.IsValid() {
		return netip.AddrPort{}, false
	}
	return mine.original, true
}

// pause lets virtual time pass; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (h *host) String() string { return fmt.Sprintf("%s (%s)", h.name, h.addr) }
