// Command pair measures two sidecars in a row (plaintext in, mutual TLS
// between them, plaintext out) beside HAProxy and nginx in the same run. The
// sidecars are real processes: certificates from the CA, configuration over
// xDS, compiled from pair.yaml; routing, authorization, metrics and access log
// are on. A script starts the peers and the load (-script).
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

//go:embed pair.yaml
var manifests []byte

const (
	clientPort = 18401
	serverPort = 18402
	backend    = "127.0.0.1:18080"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	script := flag.String("script", "../shared/bench/pair.sh", "benchmark that starts the peers and takes --also NAME URL PID PID")
	tulle := flag.String("tulle", "", "tulle binary (default: build it)")
	profile := flag.String("profile", "", "write a CPU profile of each sidecar into this folder")
	flag.Parse()
	if err := run(ctx, *script, *tulle, *profile, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "pair:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, script, tulle, profile string, args []string) error {
	if _, err := os.Stat(script); err != nil {
		return fmt.Errorf("%w: say with -script where the benchmark of the peers is", err)
	}
	dir, err := os.MkdirTemp("", "tulle-pair")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if tulle == "" {
		tulle = filepath.Join(dir, "tulle")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", tulle, "./cmd/tulle").CombinedOutput(); err != nil {
			return fmt.Errorf("build tulle: %w\n%s", err, out)
		}
	}
	p := &pair{dir: dir, tulle: tulle, tokens: ca.NewTokens()}
	defer p.stop()
	if err := p.start(ctx); err != nil {
		return err
	}
	if profile != "" {
		go p.profile(ctx, profile)
	}
	return p.measure(ctx, script, args)
}

// pair is the two sidecars and the control plane that feeds them.
type pair struct {
	dir, tulle string
	authority  *ca.Authority
	tokens     *ca.Tokens
	server     *grpc.Server
	discovery  string
	processes  []*exec.Cmd
	snapshots  map[string]*ir.Snapshot
}

func (p *pair) start(ctx context.Context) error {
	client := &resource.Workload{Name: "client-0", Namespace: "bench", Owner: "client", OwnerKind: "Deployment", ServiceAccount: "client", Labels: map[string]string{"app": "client"}, Address: netip.MustParseAddr("127.0.0.1"), Ready: true, Sidecar: true}
	server := &resource.Workload{Name: "server-0", Namespace: "bench", Owner: "server", OwnerKind: "Deployment", ServiceAccount: "server", Labels: map[string]string{"app": "server"}, Address: netip.MustParseAddr("127.0.0.1"), Ready: true, Sidecar: true,
		Ports: []resource.WorkloadPort{{Name: "http", Port: serverPort}}}
	set, problems := resource.Parse([]resource.File{{Name: "pair.yaml", Data: manifests}})
	set.Workloads = []*resource.Workload{client, server}
	index := compile.Prepare(set)
	if problems = append(problems, index.Problems()...); len(problems) > 0 {
		return fmt.Errorf("pair.yaml: %v", problems)
	}
	p.snapshots = map[string]*ir.Snapshot{
		client.Name: clientSide(index.Snapshot(index.Node(client))),
		server.Name: serverSide(index.Snapshot(index.Node(server))),
	}
	if err := p.serve(); err != nil {
		return err
	}
	for i, w := range []*resource.Workload{client, server} {
		if err := p.sidecar(ctx, index.Node(w), 18500+10*i); err != nil {
			return err
		}
	}
	return nil
}

// clientSide makes the outbound listener of the service's port listen itself,
// because nothing redirects to it here.
func clientSide(s *ir.Snapshot) *ir.Snapshot {
	out := *s
	out.Listeners = nil
	for _, l := range s.Listeners {
		if l.Address.Port() == clientPort {
			c := *l
			c.Bind, c.Address = true, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), clientPort)
			out.Listeners = append(out.Listeners, &c)
		}
	}
	return out.Seal()
}

// serverSide makes the inbound listener listen on the workload's port and
// forward to the peers' backend instead of the original destination.
func serverSide(s *ir.Snapshot) *ir.Snapshot {
	out := *s
	out.Listeners, out.Clusters = nil, nil
	for _, l := range s.Listeners {
		if l.Direction == ir.Inbound {
			c := *l
			c.UseOriginalDst, c.Address = false, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), serverPort)
			out.Listeners = append(out.Listeners, &c)
		}
	}
	for _, cl := range s.Clusters {
		if cl.Name == fmt.Sprintf("inbound|%d||", serverPort) {
			c := *cl
			c.Type, c.LB, c.BindSource = ir.Static, ir.RoundRobin, netip.Addr{}
			c.Endpoints = &ir.EndpointSet{Cluster: c.Name, Endpoints: []ir.Endpoint{{Address: backend}}}
			cl = &c
		}
		out.Clusters = append(out.Clusters, cl)
	}
	return out.Seal()
}

// serve opens CA and xDS.
func (p *pair) serve() error {
	var err error
	if p.authority, err = ca.New("cluster.local"); err != nil {
		return err
	}
	cert, err := p.authority.ServerCertificate("istiod.istio-system.svc")
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.discovery = l.Addr().String()
	p.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})))
	ca.Register(p.server, p.authority, p.tokens)
	xds.NewServer(xds.Options{Log: slog.New(slog.DiscardHandler), Disconnected: func(*xds.Conn) {},
		Authorize: func(context.Context, ir.Node) error { return nil },
		Connected: func(c *xds.Conn) { c.Push(p.snapshots[c.Node().Name]) },
	}).Register(p.server)
	go func() { _ = p.server.Serve(l) }() // ends with stop
	return nil
}

// sidecar starts one proxy process on one core's worth of threads and waits
// until it is ready.
func (p *pair) sidecar(ctx context.Context, n ir.Node, firstPort int) error {
	ports := agent.Ports{Admin: firstPort, Agent: firstPort + 1, Ready: firstPort + 2, Metrics: firstPort + 3}
	spec := &agent.Spec{Node: n, Discovery: p.discovery, RootCA: string(p.authority.Roots()), Shared: true, Ports: ports}
	argv, env := spec.Command(p.tulle)
	id, err := identity.ParseID(n.Principal())
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	_, _ = w.WriteString(p.tokens.Issue(id)) // far below a pipe's capacity
	w.Close()
	log, err := os.Create(filepath.Join(p.dir, n.Name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), env...), "GOMAXPROCS=1", "GOGC=200")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.processes = append(p.processes, cmd)
	return p.awaitReady(ctx, ports.Ready, log.Name())
}

func (p *pair) awaitReady(ctx context.Context, port int, log string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", port), nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			b, _ := os.ReadFile(log)
			return fmt.Errorf("a sidecar does not become ready:\n%s", b)
		case <-tick.C:
		}
	}
}

func (p *pair) stop() {
	for _, c := range p.processes {
		_ = c.Process.Kill() // gone already, perhaps
		_ = c.Wait()
	}
	if p.server != nil {
		p.server.Stop()
	}
}

// measure runs the script and repeats its verdict on us in the last line.
func (p *pair) measure(ctx context.Context, script string, args []string) error {
	args = append(args, "--also", "tulle", fmt.Sprintf("http://127.0.0.1:%d/", clientPort), fmt.Sprint(p.processes[0].Process.Pid), fmt.Sprint(p.processes[1].Process.Pid))
	cmd := exec.CommandContext(ctx, "bash", append([]string{script}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has children to end
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", script, err)
	}
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 6 && f[0] == "median" && f[1] == "tulle" {
			fmt.Printf("http1-1k ratio_to_haproxy %s\n", f[5])
			return nil
		}
	}
	return fmt.Errorf("%s printed no median for tulle", script)
}

// profile takes a CPU profile of both sidecars while the load runs.
func (p *pair) profile(ctx context.Context, dir string) {
	for i, name := range []string{"client", "server"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=40", 18500+10*i), nil)
		if err != nil {
			continue
		}
		go func() {
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			f, err := os.Create(filepath.Join(dir, name+".pprof"))
			if err != nil {
				return
			}
			defer f.Close()
			_, _ = io.Copy(f, resp.Body) // cut short: the profile cannot be read, and pprof says so
		}()
	}
}
