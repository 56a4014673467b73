package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/extauthz"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/rego"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/workloadapi"
	"github.com/tulle-mesh/tulle/internal/xds"
)

const (
	discoveryPort = "15012"
	discoveryName = "istiod.istio-system.svc"
	// readyTime is how long a start may take before it is called stuck.
	readyTime = 2 * time.Minute
	// stopTime is how long workloads may take to end.
	stopTime = 15 * time.Second
)

// room is the inner process.
type room struct {
	spec      spec
	log       *slog.Logger
	machine   *machine.Room
	control   *control.Control
	authority *ca.Authority
	rotation  rotation
	jwtKeys   *ca.JWTKeys
	tokens    *ca.Tokens
	source    *roomSource
	printer   printer
	debugKey  string // hash of the debug credential, hexadecimal
}

// Room runs the mesh inside its namespaces until a signal ends it, and returns
// the exit code.
func Room() int {
	var s spec
	files, err := machine.RoomSpec(&s)
	if err == nil {
		err = runRoom(&s, files[1:]) // files[0], the lock, is held by being open
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tulle:", err)
		return 1
	}
	return 0
}

func runRoom(s *spec, files []*os.File) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	logOut, err := os.OpenFile(filepath.Join(s.Dir, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logOut.Close()
	var to io.Writer = logOut
	if s.Verbose {
		to = io.MultiWriter(logOut, os.Stderr)
	}
	r := &room{spec: *s, log: slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: slog.LevelDebug})), tokens: ca.NewTokens(), rotation: rotation{asked: make(chan struct{}, 1)}, printer: newPrinter(os.Stdout, os.Stderr)}
	if r.authority, err = openAuthority(s); err != nil {
		return err
	}
	if r.jwtKeys, err = ca.NewJWTKeys(); err != nil {
		return err
	}
	if err := r.writeRoots(); err != nil {
		return err
	}
	if r.debugKey, err = newDebugCredential(s.Dir); err != nil {
		return err
	}
	root := filepath.Join(s.Dir, rootFile)
	r.source = newRoomSource(&source.Files{Paths: s.Paths, Log: r.log}, r)
	if r.machine, err = machine.New(machine.Options{
		Dir: s.Dir, Plan: machine.PlanOptions{Run: s.Run, Self: s.Self, BuildDir: s.BuildDir}, Sidecar: r.sidecar,
		ProxyEnv: []string{"SSL_CERT_FILE=" + root}, // openssl and curl verify peers with the mesh's root
		Public:   []string{root},
		Gateways: r.gateways(), Changed: func([]*resource.Workload) { r.source.poke() }, Ended: r.ended, Log: r.log,
	}); err != nil {
		return err
	}
	r.control = control.New(control.Options{Sources: []source.Source{r.source}, Authorize: r.authorize, Changed: r.changed, Ask: r.ask, Fetch: r.keyClient(), CompatibilityVersion: s.CompatibilityVersion, Log: r.log})
	return r.run(ctx, files)
}

// run owns the goroutines of the process. Workloads stop before the control
// plane does, so that they drain in order.
func (r *room) run(ctx context.Context, files []*os.File) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, inner := errgroup.WithContext(inner)
	if err := r.serveDiscovery(inner, g); err != nil {
		return err
	}
	if err := r.serveCommands(inner, g); err != nil {
		return err
	}
	g.Go(func() error { return r.control.Run(inner) })
	g.Go(func() error { return r.rotate(inner) })
	relays := r.relay(files)
	g.Go(func() error {
		if err := r.start(ctx); err != nil && ctx.Err() == nil {
			r.printer.warn("%v", err)
		}
		return nil
	})
	select {
	case <-ctx.Done():
		r.printer.step("stopping")
	case <-inner.Done(): // something of ours failed: g.Wait says what
	}
	relays.close()
	deadline, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	r.source.stop()
	r.machine.Stop(deadline)
	stop()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// start waits until every workload is ready and says so.
func (r *room) start(ctx context.Context) error {
	select {
	case <-r.source.applied:
	case <-ctx.Done():
		return ctx.Err()
	}
	workloads := r.machine.Workloads()
	r.printer.step("started %d workloads with their sidecars, waiting until they are ready", len(workloads))
	wait, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	settled := r.machine.Settled(wait)
	if settled == nil {
		settled = r.synced(wait)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.report()
	if settled != nil {
		return fmt.Errorf("%w; the others serve. See why with: tulle logs NAME", settled)
	}
	return nil
}

// synced returns when every proxy runs a configuration in which every workload
// is ready: only then does the first request find its way.
func (r *room) synced(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting := r.stale()
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("without the newest configuration: %v", waiting)
		case <-tick.C:
		}
	}
}

// stale names the proxies that have not acknowledged the newest state.
func (r *room) stale() []string {
	var out []string
	s := r.control.State()
	if s == nil {
		return []string{"all"}
	}
	status := map[string]*xds.ProxyStatus{}
	for _, p := range r.control.Status() {
		status[p.Node.Name+"."+p.Node.Namespace] = &p
	}
	for _, w := range s.Set.Workloads {
		p := status[w.Key()]
		switch {
		case !w.Ready:
			out = append(out, w.Name)
		case !w.Sidecar && !w.Gateway:
		case p == nil || p.Version != s.Index.Snapshot(s.Index.Node(w)).Version || !p.Synced():
			out = append(out, w.Name)
		}
	}
	return out
}

// serveDiscovery opens xDS and CA to the sidecars, on the bridge only.
func (r *room) serveDiscovery(ctx context.Context, g *errgroup.Group) error {
	l, err := net.Listen("tcp", net.JoinHostPort(machine.Gateway.String(), discoveryPort))
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(r.authority.ServerTLS(discoveryName, "istiod.istio-system"))))
	ca.Register(s, r.authority, r.tokens)
	workloadapi.RegisterIssuer(s, r.spec.TrustDomain, r.jwtKeys, func(ctx context.Context) (identity.ID, error) { return ca.Caller(ctx, r.tokens) })
	r.control.Server().Register(s)
	g.Go(func() error { return s.Serve(l) })
	g.Go(func() error {
		<-ctx.Done()
		s.Stop() // streams live as long as we do; sidecars are gone already
		return nil
	})
	return nil
}

// authorize lets a proxy speak for its own workload only: its token's identity
// must be the node's.
func (r *room) authorize(ctx context.Context, n ir.Node) error {
	id, err := ca.Caller(ctx, r.tokens)
	if err != nil {
		return err
	}
	if id.String() != n.Principal() {
		return status.Errorf(codes.PermissionDenied, "%s may not speak for %s", id, n.Principal())
	}
	return nil
}

const askTime = 5 * time.Second

// ask puts a request that explain imagines to an external authorizer of the
// room, past its sidecar.
func (r *room) ask(workload string, port uint16, f *ir.ExtAuthz, e *authz.External) authz.Verdict {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if f.Rego != nil {
		return rego.DecideOnce(ctx, f, e)
	}
	return extauthz.AskOnce(ctx, f, func(ctx context.Context) (net.Conn, error) { return r.machine.DialLocal(ctx, workload, int(port)) }, e)
}

// sidecar says how a workload's proxy is started.
func (r *room) sidecar(w *resource.Workload) (argv, env []string, token string) {
	id := identity.ID{TrustDomain: r.spec.TrustDomain, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
	node := ir.Node{Type: ir.Sidecar, Name: w.Name, Namespace: w.Namespace, IPs: []string{w.Address.String()}, Labels: w.Labels,
		ServiceAccount: w.ServiceAccount, WorkloadName: w.Owner, TrustDomain: r.spec.TrustDomain, ClusterID: w.ClusterID}
	if w.Gateway {
		node.Type = ir.Router
	}
	s := agent.Spec{Node: node, Discovery: net.JoinHostPort(machine.Gateway.String(), discoveryPort), RootCA: string(r.authority.Roots()), DebugKey: r.debugKey}
	argv, env = s.Command(r.spec.Self)
	if ttl := os.Getenv(agent.TTLEnv); ttl != "" { // of the user who called tulle up; sidecars get nothing else of it
		env = append(env, agent.TTLEnv+"="+ttl)
	}
	// Two threads, as Istio's concurrency; garbage is cheap beside system calls.
	return argv, append(env, "GOGC=200", "GOMAXPROCS=2"), r.tokens.Issue(id)
}

// gateways of the room: Istio's default ingress gateway, when a Gateway asks
// for it or nothing says otherwise.
func (r *room) gateways() []*resource.Workload {
	for _, p := range r.spec.Listeners {
		if p.Workload == gatewayName {
			return []*resource.Workload{ingressGateway()}
		}
	}
	return nil
}

func ingressGateway() *resource.Workload {
	return &resource.Workload{
		Name: gatewayName, Namespace: gatewayNamespace, Owner: gatewayName, OwnerKind: "Deployment", ServiceAccount: gatewayAccount,
		Labels: map[string]string{"istio": "ingressgateway", "app": gatewayName},
		Ports:  []resource.WorkloadPort{{Name: "http", Port: 8080}, {Name: "https", Port: 8443}}, Gateway: true,
	}
}

// relays join host ports with ports in the room.
type relays struct {
	listeners []net.Listener
	wg        sync.WaitGroup
}

func (r *room) relay(files []*os.File) *relays {
	out := &relays{}
	for i, p := range r.spec.Listeners {
		l, err := net.FileListener(files[i])
		files[i].Close()
		if err != nil {
			r.printer.warn("port %s: %v", p.Name, err)
			continue
		}
		out.listeners = append(out.listeners, l)
		out.wg.Go(func() {
			machine.Relay(l, func(ctx context.Context) (net.Conn, error) { return r.machine.Dial(ctx, p.Workload, p.Port) })
		})
	}
	return out
}

func (r *relays) close() {
	for _, l := range r.listeners {
		l.Close()
	}
}

// url of a host port, "" when it is off.
func (r *room) url(name, scheme string) string {
	for _, p := range r.spec.Listeners {
		if p.Name == name {
			host, port, _ := net.SplitHostPort(p.Addr)
			if host == "127.0.0.1" || host == "0.0.0.0" || host == "" {
				host = "localhost"
			}
			return scheme + "://" + net.JoinHostPort(host, port)
		}
	}
	return ""
}
