// Package agent is the sidecar process: it proves who the workload is, gets a
// certificate, takes configuration from the control plane and runs the proxy
// with it. On a gateway it does the same without redirection.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/nameserver"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Options of an agent.
type Options struct {
	Node ir.Node
	// Discovery is the control plane's address (host:port, Istio's 15012: TLS,
	// xDS and CA on one port).
	Discovery string
	// DiscoveryName is the name its certificate must carry; default
	// istiod.istio-system.svc.
	DiscoveryName string
	// RootCA is the PEM bundle that the control plane's certificate chains to.
	RootCA []byte
	// Token proves the workload's identity to CA and xDS; asked for anew with
	// each stream, because tokens are renewed.
	Token func() string
	Mark  int // SO_MARK of upstream sockets; 0 none
	// DrainTime is how long requests may go on after a stop; default 5s
	// (Istio's terminationDrainDuration).
	DrainTime time.Duration
	Ports     Ports
	// CertificateTTL is asked of the CA; 0 is the CA's default (24h).
	CertificateTTL time.Duration
	// DebugKey is the hash of the debug credential (proxy.Options.DebugKey).
	DebugKey [32]byte
	// WorkloadAPI is the path of the SPIFFE Workload API's socket for the
	// application; "" serves none. SameNetwork: see workloadapi.Options.
	WorkloadAPI string
	SameNetwork bool
	Rego        Rego // nil: none is decided here
	Log         *slog.Logger
}

// Ports the agent serves on; 0 leaves one out. Istio's numbers are in
// DefaultPorts.
type Ports struct{ Admin, Agent, Ready, Metrics, DNS int }

// DefaultPorts are Istio's.
var DefaultPorts = Ports{Admin: 15000, Agent: 15020, Ready: 15021, Metrics: 15090, DNS: 15053}

const defaultDrain = 5 * time.Second

// Run serves until ctx ends, then drains. It returns nil after a clean drain.
func Run(ctx context.Context, opts Options) error {
	if opts.DrainTime == 0 {
		opts.DrainTime = defaultDrain
	}
	if opts.DiscoveryName == "" {
		opts.DiscoveryName = "istiod.istio-system.svc"
	}
	id, err := identity.ParseID(opts.Node.Principal())
	if err != nil {
		return fmt.Errorf("node %s: %w", opts.Node.ID(), err)
	}
	holder := identity.NewHolder(id.TrustDomain)
	conn, err := dial(opts, holder)
	if err != nil {
		return err
	}
	defer conn.Close()
	metrics := telemetry.NewMetrics()
	po := ProxyOptions(holder, opts.Rego)
	po.Mark, po.Metrics, po.Log, po.DebugKey = opts.Mark, metrics, opts.Log, opts.DebugKey
	po.MemoryLimit = memoryLimit()
	po.FreeMemory = func() {
		runtime.GC() // a sync.Pool lets go of what is in it with the second collection
		debug.FreeOSMemory()
	}
	p := proxy.New(po)
	a := &agent{opts: opts, proxy: p, holder: holder, conn: conn}
	return a.run(ctx)
}

// memoryLimit is GOMEMLIMIT where it is set, as it is in a container.
func memoryLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	return 0
}

type agent struct {
	opts        Options
	proxy       *proxy.Proxy
	holder      *identity.Holder
	conn        *grpc.ClientConn
	rotator     *ca.Rotator
	application application
	names       *nameserver.Server // nil: the workload's queries do not come here
}

// run owns every goroutine of the process. Order matters at both ends: no
// configuration before there is a certificate, no exit before the drain.
func (a *agent) run(ctx context.Context) error {
	g, inner := errgroup.WithContext(context.WithoutCancel(ctx))
	inner, stop := context.WithCancel(inner)
	defer stop()
	servers, err := a.serve()
	if err != nil {
		return err
	}
	defer servers.close()
	if a.names, err = serveNames(a.opts); err != nil {
		return err
	}
	if a.names != nil {
		defer a.names.Close()
	}
	if err := a.serveApplication(inner, g); err != nil {
		return err
	}
	a.rotator = ca.NewRotator(ca.RotatorOptions{Conn: a.conn, Holder: a.holder, TTL: a.opts.CertificateTTL, Log: a.opts.Log})
	g.Go(func() error { return quiet(a.rotator.Run(inner)) })
	g.Go(func() error {
		select {
		case <-a.holder.Ready():
		case <-inner.Done():
			return nil
		}
		return quiet(xds.Run(inner, xds.ClientOptions{Conn: a.conn, Node: a.opts.Node, Apply: a.apply, Log: a.opts.Log}))
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-inner.Done():
			return nil
		}
		drain, cancel := context.WithTimeout(context.Background(), a.opts.DrainTime)
		defer cancel()
		a.opts.Log.Info("draining", "for at most", a.opts.DrainTime)
		a.proxy.Drain(drain)
		stop()
		return nil
	})
	return g.Wait()
}

// apply puts a snapshot in force: the proxy may refuse it, the names may not.
func (a *agent) apply(s *ir.Snapshot) error {
	if !Trust(a.holder, s) {
		a.rotator.Renew()
	}
	a.application.trust(s)
	if err := a.proxy.Apply(s); err != nil {
		return err
	}
	if a.names != nil {
		a.names.Apply(s)
	}
	return nil
}

// ready: a certificate and a configuration are there, and no drain has begun.
func (a *agent) ready() error {
	switch {
	case a.proxy.Draining():
		return errors.New("draining")
	case a.proxy.Version() == "":
		return errors.New("no configuration from " + a.opts.Discovery + " yet")
	}
	return nil
}

func quiet(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// dial connects to the control plane with TLS; the bearer token goes with
// every call.
func dial(opts Options, h *identity.Holder) (*grpc.ClientConn, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(opts.RootCA) {
		return nil, errors.New("the control plane's root certificate is not PEM")
	}
	creds := credentials.NewTLS(discoveryTLS(roots, opts.DiscoveryName, h))
	return grpc.NewClient("passthrough:///"+opts.Discovery,
		grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(bearer{opts.Token}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
}

// bearer sends the workload's token.
type bearer struct{ token func() string }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token()}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
