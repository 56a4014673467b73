// Package proxy is the data plane: it accepts connections, decides on them
// with the snapshot it was given and forwards them. One Proxy is one sidecar
// or gateway; it knows nothing of YAML, Kubernetes or xDS.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwt"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// TLS makes TLS configurations; the agent implements it with the workload's
// identity. Configurations follow certificate rotation by themselves.
type TLS interface {
	ServerTLS(d *ir.DownstreamTLS, secrets func(name string) *ir.Secret) (*tls.Config, error)
	ClientTLS(u *ir.UpstreamTLS, secrets func(name string) *ir.Secret) (*tls.Config, error)
}

// Options of a Proxy. Everything but TLS may be zero.
type Options struct {
	TLS TLS
	// Authorizer makes the client of an external authorizer; dial reaches its
	// cluster. nil: CUSTOM policies refuse what they match.
	Authorizer func(f *ir.ExtAuthz, dial func(context.Context) (net.Conn, error)) (authz.Provider, error)
	// Listen opens a socket; default net.Listen on the listener's address.
	Listen func(ctx context.Context, l *ir.Listener) (net.Listener, error)
	// OriginalDst tells where a redirected connection was going; default
	// SO_ORIGINAL_DST. Without an answer the local address counts.
	OriginalDst func(c net.Conn) (netip.AddrPort, bool)
	// Dial connects to an upstream host, from the address bind if it is valid;
	// default net.Dialer with Mark and the cluster's keepalive.
	Dial func(ctx context.Context, address string, bind netip.Addr) (net.Conn, error)
	// Resolver looks names up for DNS clusters; default: the servers of
	// /etc/resolv.conf.
	Resolver upstream.Resolver
	// Mark for upstream sockets (SO_MARK); 0 sets none.
	Mark int
	// MaxConnections bounds downstream connections; default 100,000.
	MaxConnections int
	// MemoryLimit is the memory in bytes that the process should stay below; 0:
	// no limit. Near it requests are answered 503, then connections are closed.
	MemoryLimit int64
	// RestAfter is how long a connection without a request keeps its
	// buffers; default 4s.
	RestAfter time.Duration
	// FreeMemory, if set, is called once in a while after much has become free
	// (debug.FreeOSMemory).
	FreeMemory func()
	// Serial is that of the workload's certificate now in use, hexadecimal, for
	// Edges; nil: not known.
	Serial func() string
	// DebugKey is the SHA-256 of the credential with which a caller may ask for
	// decision ids (header x-tulle-debug); zero: nobody may.
	DebugKey [32]byte
	Metrics  *telemetry.Metrics
	OpenLog  func(path string) (*telemetry.Logger, error) // default telemetry.OpenLogger
	Log      *slog.Logger
}

// Proxy is one data plane. Apply, Drain and the accessors may be called from
// any goroutine; Apply calls are serialized.
type Proxy struct {
	opts     Options
	log      *slog.Logger
	upstream *upstream.Set
	metrics  *telemetry.Metrics

	// runtime is what every connection reads: swapped whole, loaded once per
	// request. nil until the first Apply.
	runtime atomic.Pointer[runtime]

	applyMu   sync.Mutex // serializes Apply; guards sockets, logs, providers and verifiers
	sockets   map[netip.AddrPort]*socket
	logs      map[string]*telemetry.Logger
	providers map[string]authz.Provider
	verifiers map[string]*jwt.Verifier
	replaced  int // objects that metrics were indexed by, since the last Forget; guarded by applyMu

	conns    connections
	draining atomic.Bool
	stats    proxyStats
	trim     trimmer
	overload overload
	mirrors  mirrors
	edges    edges
	denials  denials
	failures recent[Failure]
	debugs   bool // there is a debug credential

	routeCounters routeCounters
	authz         authzCounters
}

// New returns a proxy that serves nothing until Apply.
func New(opts Options) *Proxy {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Metrics == nil {
		opts.Metrics = telemetry.NewMetrics()
	}
	if opts.OpenLog == nil {
		opts.OpenLog = telemetry.OpenLogger
	}
	if opts.Listen == nil {
		opts.Listen = listen
	}
	if opts.OriginalDst == nil {
		opts.OriginalDst = originalDst
	}
	if opts.MaxConnections == 0 {
		opts.MaxConnections = 100_000
	}
	if opts.RestAfter == 0 {
		opts.RestAfter = restAfter
	}
	p := &Proxy{debugs: opts.DebugKey != [32]byte{},
		opts: opts, trim: trimmer{free: opts.FreeMemory}, log: opts.Log, metrics: opts.Metrics,
		upstream: upstream.New(upstream.Options{TLS: opts.TLS, Mark: opts.Mark, Dial: opts.Dial, Resolver: opts.Resolver}),
		sockets:  map[netip.AddrPort]*socket{},
		logs:     map[string]*telemetry.Logger{}, providers: map[string]authz.Provider{}, verifiers: map[string]*jwt.Verifier{},
	}
	p.overload.watch(opts.MemoryLimit)
	return p
}

// Apply puts a snapshot in force, whole or not at all: everything that can
// fail is built beside the running configuration first. On error the old
// configuration stays.
func (p *Proxy) Apply(s *ir.Snapshot) error {
	p.applyMu.Lock()
	defer p.applyMu.Unlock()
	if p.draining.Load() {
		return errors.New("the proxy is draining")
	}
	next, err := p.build(s)
	if err != nil {
		return err
	}
	opened, err := p.openSockets(next)
	if err != nil {
		return err
	}
	// Nothing below fails.
	next.clusters = next.prepared.Commit()
	if p.replaced += next.prepared.Replaced(); p.replaced > staleSeries {
		p.metrics.Forget() // look-ups by pointers that are gone
		p.replaced = 0
	}
	next.prepared = nil
	p.runtime.Store(next)
	for _, s := range opened {
		p.sockets[s.address] = s
		s.start(p)
	}
	p.closeSockets(func(s *socket) bool { return next.bound[s.address] == nil })
	p.dropProviders(next)
	// Connections whose filter chain is gone end now if they are idle, and with
	// their request otherwise.
	p.conns.each(func(c *downstream) { c.reconsider(next) })
	p.trim.soon()
	p.log.Info("applied", "version", s.Version, "listeners", len(s.Listeners), "routes", len(s.Routes), "clusters", len(s.Clusters))
	return nil
}

// openSockets opens the sockets that next needs and we do not have.
func (p *Proxy) openSockets(next *runtime) ([]*socket, error) {
	var opened []*socket
	for addr, l := range next.bound {
		if p.sockets[addr] != nil {
			continue
		}
		ln, err := p.opts.Listen(context.Background(), l.Listener)
		if err != nil {
			for _, s := range opened {
				s.close()
			}
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		opened = append(opened, &socket{address: addr, Listener: ln, done: make(chan struct{})})
	}
	return opened, nil
}

func (p *Proxy) closeSockets(match func(*socket) bool) {
	for addr, s := range p.sockets {
		if match(s) {
			s.close()
			delete(p.sockets, addr)
		}
	}
}

// Version of the snapshot in force, "" before the first.
func (p *Proxy) Version() string {
	if rt := p.runtime.Load(); rt != nil {
		return rt.version
	}
	return ""
}

// Snapshot in force, nil before the first. Read-only.
func (p *Proxy) Snapshot() *ir.Snapshot {
	if rt := p.runtime.Load(); rt != nil {
		return rt.snapshot
	}
	return nil
}

// Upstream gives the admin pages the clusters' state.
func (p *Proxy) Upstream() *upstream.Set { return p.upstream }

// Addr returns where a bound listener really listens (tests bind port 0).
func (p *Proxy) Addr(configured netip.AddrPort) net.Addr {
	p.applyMu.Lock()
	defer p.applyMu.Unlock()
	if s := p.sockets[configured]; s != nil {
		return s.Addr()
	}
	return nil
}

// Drain stops accepting, lets requests finish and closes what is idle; when
// ctx ends the rest is closed. Sockets, logs and pools are closed when it
// returns, and the proxy cannot be used again.
func (p *Proxy) Drain(ctx context.Context) {
	p.draining.Store(true)
	p.applyMu.Lock()
	p.closeSockets(func(*socket) bool { return true })
	p.applyMu.Unlock()
	p.conns.each(func(c *downstream) { c.closeIfIdle() })
	if !p.conns.wait(ctx) {
		p.conns.each(func(c *downstream) { c.abort() })
		p.conns.wait(context.Background())
	}
	p.mirrors.close()
	p.upstream.Close()
	p.trim.stop()
	p.overload.close()
	p.mirrors.running.Wait()
	p.applyMu.Lock()
	defer p.applyMu.Unlock()
	p.dropProviders(nil)
	for path, l := range p.logs {
		l.Close()
		delete(p.logs, path)
	}
}

// Draining reports whether Drain was called.
func (p *Proxy) Draining() bool { return p.draining.Load() }

// listen is the default Options.Listen. SO_REUSEADDR is Go's default, so that
// a restarted sidecar gets its port back.
func listen(ctx context.Context, l *ir.Listener) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	return lc.Listen(ctx, "tcp", l.Address.String())
}

// staleSeries is how many replaced objects the metrics' index may still know.
const staleSeries = 1024

// acceptRetry is the pause after a failed accept (usually: out of file
// descriptors), so that the failure does not become a busy loop.
const acceptRetry = 50 * time.Millisecond
