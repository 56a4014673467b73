package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/capture"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Names of a pod's containers.
const (
	AppContainer   = "app"
	ProxyContainer = "istio-proxy"
)

// unredirected ports answer the outside directly: health and metrics.
var unredirected = []uint16{15008, 15020, 15021, 15090}

// pod is one running replica.
type pod struct {
	room  *Room
	spec  *podSpec
	addr  netip.Addr
	ns    *netns // set once, by start
	ready atomic.Bool
	logs  map[string]*logFile

	ctx    context.Context // ends when the pod is to stop
	cancel context.CancelFunc
	wg     sync.WaitGroup
	binds  map[string]string
	edited chan struct{} // holds one: the application's files are new

	mu        sync.Mutex
	processes map[string]*os.Process
	begun     time.Time // when the application was last started
	sibling   *netns    // for exec in the proxy's place, made on demand
}

func newPod(r *Room, s *podSpec, addr netip.Addr) *pod {
	ctx, cancel := context.WithCancel(context.Background())
	return &pod{room: r, spec: s, addr: addr, ctx: ctx, cancel: cancel, edited: make(chan struct{}, 1), processes: map[string]*os.Process{},
		logs: map[string]*logFile{AppContainer: newLogFile(filepath.Join(r.podDir(s), AppContainer+".log")), ProxyContainer: newLogFile(filepath.Join(r.podDir(s), ProxyContainer+".log"))}}
}

func (p *pod) workload() *resource.Workload { return p.spec.workload(p.addr, p.ready.Load()) }

// start makes the pod's place and launches its processes, sidecar first.
func (p *pod) start() error {
	if err := p.files(); err != nil {
		return err
	}
	b := p.addr.As4()
	ns, err := newNetNS(fmt.Sprintf("tulle%d.%d", b[2], b[3]), p.addr)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.ns = ns
	p.mu.Unlock()
	if p.spec.Sidecar {
		if err := capture.Apply(capture.Options{NetNS: p.ns.fd, OutboundPort: 15001, InboundPort: 15006, DNSPort: 15053, ExcludeInbound: unredirected, ExcludeOutbound: []netip.Addr{Gateway}}); err != nil {
			return err
		}
	}
	// Before the first process: a connection that was begun without the rules
	// would go without them for as long as it is tried.
	if err := p.translate(p.room.forwards()); err != nil {
		return err
	}
	if p.spec.Sidecar || p.spec.Gateway {
		argv, env, token := p.room.opts.Sidecar(p.workload())
		if path := p.identitySocket(); path != "" {
			env = append(env, "TULLE_WORKLOAD_API="+path)
		}
		p.wg.Go(func() { p.keep(ProxyContainer, argv, env, token) })
	}
	if !p.spec.Gateway {
		p.wg.Go(func() { p.keep(AppContainer, p.argv(), p.appEnv(), "") })
	}
	p.wg.Go(p.probe)
	return nil
}

// files writes what is mounted into the pod.
func (p *pod) files() error {
	dir := p.room.podDir(p.spec)
	if err := ensureDir(dir); err != nil {
		return err
	}
	ns := p.spec.Namespace
	p.binds = map[string]string{}
	for target, text := range map[string]string{
		"/etc/resolv.conf": fmt.Sprintf("nameserver %s\nsearch %s.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n", Gateway, ns),
		"/etc/hosts":       fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", p.addr, p.spec.Name),
	} {
		if _, err := os.Stat(target); err != nil {
			continue
		}
		file := filepath.Join(dir, filepath.Base(target))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		p.binds[target] = file
	}
	if _, err := p.writeVolumes(p.spec.Volumes); err != nil {
		return err
	}
	for name, v := range p.spec.Volumes {
		if info, err := os.Stat(v.MountPath); err == nil && info.IsDir() {
			p.binds[v.MountPath] = p.volumeDir(name)
		}
	}
	return nil
}

// maxSocketPath is what fits into a Unix socket's address.
const maxSocketPath = 107

// identitySocket is where the sidecar serves the SPIFFE Workload API to the
// application; "" where there is nobody to serve, or the run's folder lies too
// deep for the address of a socket.
func (p *pod) identitySocket() string {
	path := filepath.Join(p.room.podDir(p.spec), "spiffe")
	if !p.spec.Sidecar || p.spec.Gateway || len(path) > maxSocketPath {
		return ""
	}
	return path
}

// argv is the application's command, with mount paths that cannot exist on
// this machine replaced by where the volume really is.
func (p *pod) argv() []string {
	out := append([]string(nil), p.spec.Argv...)
	for name, v := range p.spec.Volumes {
		if p.binds[v.MountPath] != "" {
			continue
		}
		for i, a := range out {
			if a == v.MountPath || strings.HasPrefix(a, v.MountPath+"/") {
				out[i] = p.volumeDir(name) + a[len(v.MountPath):]
			}
		}
	}
	return out
}

func (p *pod) appEnv() []string {
	var env []string
	if path := p.identitySocket(); path != "" {
		env = append(env, "SPIFFE_ENDPOINT_SOCKET=unix://"+path) // first: what the manifest says wins
	}
	for _, e := range p.spec.Env {
		env = append(env, strings.ReplaceAll(e, podIPPlaceholder, p.addr.String()))
	}
	for name := range p.spec.Volumes {
		env = append(env, "TULLE_VOLUME_"+strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))+"="+p.volumeDir(name))
	}
	return append(env, "HOSTNAME="+p.spec.Name)
}

// keep runs a container until the pod stops, restarting it with growing pauses.
func (p *pod) keep(container string, argv, env []string, token string) {
	var edited <-chan struct{}
	if container == AppContainer {
		edited = p.edited
	}
	next := newRestarts()
	for p.ctx.Err() == nil {
		select { // an edit that this start sees
		case <-edited:
		default:
		}
		begin := time.Now()
		err := p.run(container, argv, env, token)
		if p.ctx.Err() != nil {
			return
		}
		if err == nil && p.spec.Once && container == AppContainer {
			p.logs[container].say("completed")
			return
		}
		e := next.ended(time.Since(begin))
		e.Workload, e.Container, e.Err = p.spec.Name, container, err
		p.logs[container].say("%s ended (%v), again in %s", container, err, e.Again)
		p.room.opts.Ended(e)
		p.setReady(false)
		timer := time.NewTimer(e.Again)
		select {
		case <-p.ctx.Done():
		case <-timer.C:
		case <-edited:
			next.reset()
		}
		timer.Stop()
	}
}

// run starts a container's process and waits for its end.
func (p *pod) run(container string, argv, env []string, token string) error {
	cmd := p.command(p.ns, argv, env, container == ProxyContainer)
	cmd.Stdout, cmd.Stderr = p.logs[container], p.logs[container]
	if token != "" {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		cmd.ExtraFiles = []*os.File{r}
		if _, err := w.WriteString(token); err != nil { // far below a pipe's capacity
			return err
		}
		w.Close()
	}
	// A process that leaves children holding its output must not keep us.
	cmd.WaitDelay = time.Second
	if err := p.launch(p.ns, cmd); err != nil {
		return err
	}
	p.mu.Lock()
	p.processes[container] = cmd.Process
	if container == AppContainer {
		p.begun = time.Now()
	}
	p.mu.Unlock()
	err := cmd.Wait()
	p.mu.Lock()
	delete(p.processes, container)
	p.mu.Unlock()
	return err
}

// command prepares a process of the pod, through the shim.
func (p *pod) command(ns *netns, argv, env []string, privileged bool) *exec.Cmd {
	spec, _ := json.Marshal(shimSpec{Argv: argv, Dir: p.spec.Dir, Hostname: p.spec.Name, Binds: p.binds, Privileged: privileged, Path: os.Getenv("PATH"),
		Hide: p.room.opts.Dir, Keep: append([]string{p.room.podDir(p.spec), p.room.opts.Plan.BuildDir}, p.room.opts.Public...)}) // plain data
	cmd := exec.Command("/proc/self/exe", ShimArg)
	cmd.Env = append(baseEnv(), env...)
	cmd.Env = append(cmd.Env, shimEnv+"="+string(spec))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
	return cmd
}

// baseEnv is what of our own environment a workload gets: enough to run
// programs, none of the user's secrets.
func baseEnv() []string {
	var out []string
	for _, k := range []string{"PATH", "HOME", "LANG", "TMPDIR", "USER"} {
		if v, ok := os.LookupEnv(k); ok {
			out = append(out, k+"="+v)
		}
	}
	return out
}

// launch starts a command inside a network namespace.
func (p *pod) launch(ns *netns, cmd *exec.Cmd) error { return ns.do(cmd.Start) }

// dial connects from inside the pod.
func (p *pod) dial(ctx context.Context, port int) (net.Conn, error) {
	host := "127.0.0.1"
	if p.spec.Gateway {
		host = p.addr.String()
	}
	return p.ns.dial(ctx, net.JoinHostPort(host, fmt.Sprint(port)))
}

func (p *pod) setReady(v bool) {
	if p.ready.Swap(v) != v {
		p.room.changed()
	}
}

// signal reaches the whole session of a container's process.
func (p *pod) signal(container string, sig syscall.Signal) error {
	p.mu.Lock()
	proc := p.processes[container]
	p.mu.Unlock()
	if proc == nil {
		return errNoProcess
	}
	if err := syscall.Kill(-proc.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// stop ends the pod in order: out of the endpoints, application, sidecar.
func (p *pod) stop(ctx context.Context) {
	p.cancel()
	p.ready.Store(false)
	for _, c := range []string{AppContainer, ProxyContainer} {
		if p.signal(c, syscall.SIGTERM) == nil {
			p.awaitExit(ctx, c, time.Duration(p.spec.Grace)*time.Second)
		}
		_ = p.signal(c, syscall.SIGKILL) // ended already, usually
	}
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sibling != nil {
		p.sibling.close()
	}
	if p.ns != nil {
		p.ns.close()
	}
	for _, l := range p.logs {
		l.Close()
	}
	_ = os.RemoveAll(p.room.podDir(p.spec)) // the room's folder goes as a whole anyway
}

func (p *pod) awaitExit(ctx context.Context, container string, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, max(grace, time.Second))
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		gone := p.processes[container] == nil
		p.mu.Unlock()
		if gone {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
