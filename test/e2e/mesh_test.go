// Package e2e drives the real binary as a user would: `tulle up` on
// ResearchFlow's manifests, with real namespaces, processes and sockets.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binaries are built once for all tests.
var binaries struct {
	sync.Once
	dir, tulle, app string
	err             error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if binaries.dir != "" {
		os.RemoveAll(binaries.dir)
	}
	os.Exit(code)
}

func build(t *testing.T) {
	t.Helper()
	b := &binaries
	b.Do(func() {
		if dir := os.Getenv("TULLE_E2E_BINARIES"); dir != "" { // built beforehand, for a user without Go
			b.tulle, b.app = filepath.Join(dir, "tulle"), filepath.Join(dir, "researchflow")
			return
		}
		if b.dir, b.err = os.MkdirTemp("", "tulle-e2e"); b.err != nil {
			return
		}
		b.tulle, b.app = filepath.Join(b.dir, "tulle"), filepath.Join(b.dir, "researchflow")
		for out, pkg := range map[string]string{b.tulle: "./cmd/tulle", b.app: "./examples/researchflow"} {
			cmd := exec.Command("go", "build", "-o", out, pkg)
			cmd.Dir = filepath.Join("..", "..")
			if text, err := cmd.CombinedOutput(); err != nil {
				b.err = fmt.Errorf("build %s: %w\n%s", pkg, err, text)
			}
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
}

// mesh is one `tulle up` with its own copy of the manifests and its own ports.
type mesh struct {
	t       *testing.T
	dir     string   // manifests and run
	args    []string // of tulle up, beyond the usual
	cmd     *exec.Cmd
	out     *output
	gateway string
	https   string
	opa     string
	overlay string // of the manifests; "" is the base
	tokens  map[string]string
	ended   chan struct{}
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start brings ResearchFlow up and waits until it is ready. It skips, and says
// why, where the kernel forbids this user the namespaces.
func start(t *testing.T, args ...string) *mesh { return startOverlay(t, "", args...) }

// startOverlay is start with one of the manifests' overlays; args are more
// arguments of "tulle up".
func startOverlay(t *testing.T, overlay string, args ...string) *mesh {
	t.Helper()
	build(t)
	m := &mesh{t: t, overlay: overlay, args: args, dir: t.TempDir(), out: &output{}, tokens: map[string]string{}, ended: make(chan struct{})}
	m.manifests()
	m.run()
	m.readTokens()
	t.Cleanup(m.stop)
	return m
}

// startOwn brings up a test's own manifests instead of ResearchFlow.
func startOwn(t *testing.T, manifests string) *mesh {
	t.Helper()
	build(t)
	m := &mesh{t: t, overlay: "none", dir: t.TempDir(), out: &output{}, ended: make(chan struct{})}
	m.write("local.yaml", manifests)
	m.run()
	t.Cleanup(m.stop)
	return m
}

// manifests copies what the repository has, so that tests may edit it.
func (m *mesh) manifests() {
	root := filepath.Join("..", "..")
	if err := os.CopyFS(filepath.Join(m.dir, "base"), os.DirFS(filepath.Join(root, "infrastructure", "kubernetes", "base"))); err != nil {
		m.t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(m.dir, "overlays"), os.DirFS(filepath.Join(root, "infrastructure", "kubernetes", "overlays"))); err != nil {
		m.t.Fatal(err)
	}
	folder := "base"
	if m.overlay != "" {
		folder = "overlays/" + m.overlay
	}
	local, err := os.ReadFile(filepath.Join(root, "examples", "researchflow", "local.yaml"))
	if err != nil {
		m.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(local), "$(BUILD)/researchflow", binaries.app)
	text = strings.Replace(text, "../../infrastructure/kubernetes/base", folder, 1)
	text = regexp.MustCompile(`(?m)^  build:\n(    .*\n)+`).ReplaceAllString(text, "")
	m.write("local.yaml", text)
	key, err := os.ReadFile(filepath.Join(root, "examples", "researchflow", "demo-key.pem"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("demo-key.pem", string(key))
}

func (m *mesh) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil { // as editors do
		m.t.Fatal(err)
	}
}

// edit replaces text in a manifest and returns what it was.
func (m *mesh) edit(name, old, new string) (before string) {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		m.t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		m.t.Fatalf("%s does not contain %q", name, old)
	}
	m.write(name, strings.ReplaceAll(string(b), old, new))
	return string(b)
}

func (m *mesh) state() string { return filepath.Join(m.dir, "state") }

func (m *mesh) run() {
	m.t.Helper()
	ports := freePorts(m.t, 4)
	m.gateway, m.https, m.opa = "localhost:"+ports[0], "localhost:"+ports[1], "localhost:"+ports[2]
	args := []string{"up", m.dir + "/local.yaml", "--port", "gateway=" + ports[0], "--port", "gateway-https=" + ports[1]}
	if m.overlay == "" { // which has an OPA
		args = append(args, "--port", "opa="+ports[2], "--port", "opa-grpc="+ports[3])
	}
	m.cmd = exec.Command(binaries.tulle, append(args, m.args...)...)
	m.cmd.Env = m.env()
	m.cmd.Stdout, m.cmd.Stderr = m.out, m.out
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	m.ended = ended
	go func() {
		_ = m.cmd.Wait() // the output says why
		close(ended)
	}()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(m.out.String(), "\nready in ") {
		select {
		case <-ended:
			if text := m.out.String(); strings.Contains(text, "create namespaces:") {
				m.t.Skipf("this test needs user namespaces, or root with CAP_SYS_ADMIN: %s", text)
			}
			m.t.Fatalf("tulle up ended:\n%s", m.out)
		case <-deadline.C:
			m.t.Fatalf("tulle up is not ready:\n%s\n%s", m.out, m.log())
		case <-tick.C:
		}
	}
}

// readTokens takes the tokens from the commands to try.
func (m *mesh) readTokens() {
	m.t.Helper()
	for title, role := range map[string]string{"a viewer reads": "viewer", "a researcher starts": "researcher", "an admin deletes": "admin"} {
		_, after, _ := strings.Cut(m.out.String(), "# "+title)
		token := regexp.MustCompile(`Bearer ([\w.-]+)`).FindStringSubmatch(after)
		if token == nil {
			m.t.Fatalf("no token for %s in:\n%s", role, m.out)
		}
		m.tokens[role] = token[1]
	}
}

// env marks every process of the run: PATH is what workloads inherit.
func (m *mesh) env() []string {
	return append(os.Environ(), "TULLE_STATE="+m.state(), "PATH="+os.Getenv("PATH")+":"+m.dir)
}

func (m *mesh) log() string {
	b, _ := os.ReadFile(filepath.Join(m.state(), "tulle.log"))
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return string(b)
}

// stop is Ctrl-C; afterwards nothing may be left.
func (m *mesh) stop() {
	select {
	case <-m.ended:
		return
	default:
	}
	_ = m.cmd.Process.Signal(syscall.SIGINT) // it may just have ended
	m.awaitEnd()
	m.leftNothing()
}

func (m *mesh) awaitEnd() {
	m.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	select {
	case <-m.ended:
	case <-deadline.C:
		m.t.Errorf("tulle up does not end:\n%s", m.out)
		_ = m.cmd.Process.Kill() // and its namespaces with it
		<-m.ended
	}
}

// leftNothing looks for processes and files of the run.
func (m *mesh) leftNothing() {
	m.t.Helper()
	m.eventually(5*time.Second, func() error {
		if left := processes(m.dir); len(left) > 0 {
			return fmt.Errorf("processes are left: %v", left)
		}
		return nil
	})
	if _, err := os.Stat(m.state()); !errors.Is(err, os.ErrNotExist) {
		left, _ := filepath.Glob(m.state() + "/*")
		m.t.Errorf("%s is left behind: %v %v", m.state(), err, left)
	}
}

// processes are those whose environment or arguments name the folder.
func processes(dir string) []string {
	var out []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if strings.Trim(e.Name(), "0123456789") != "" || e.Name() == fmt.Sprint(os.Getpid()) {
			continue
		}
		env, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if bytes.Contains(env, []byte(dir)) || bytes.Contains(args, []byte(dir)) {
			out = append(out, e.Name()+" "+string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		}
	}
	return out
}

// kill ends the application of this mesh whose environment has the entry.
func (m *mesh) kill(entry string) error {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		env, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if bytes.Contains(env, []byte(entry)) && bytes.Contains(env, []byte(m.dir)) && bytes.HasPrefix(args, []byte(binaries.app)) {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				return err
			}
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("no process has %q", entry)
}

// few shortens a list of failures.
func few(list []string) string {
	if len(list) > 5 {
		list = list[:5]
	}
	return strings.Join(list, "; ")
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		out = append(out, port)
	}
	return out
}

// tulle runs a command against this mesh and returns its output and exit code.
func (m *mesh) tulle(args ...string) (string, int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries.tulle, args...)
	cmd.Env = m.env()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("tulle %v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// call makes a request as a role ("" for nobody) and returns status and body.
func (m *mesh) call(role, method, url, body string) (int, string) {
	m.t.Helper()
	status, text, err := m.try(role, method, url, body)
	if err != nil {
		m.t.Fatal(err)
	}
	return status, text
}

func (m *mesh) try(role, method, url, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if role != "" {
		req.Header.Set("Authorization", "Bearer "+m.tokens[role])
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// eventually repeats f until it succeeds.
func (m *mesh) eventually(limit time.Duration, f func() error) {
	m.t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Errorf("still after %s: %v", limit, err)
			return
		}
		<-tick.C
	}
}

// need skips what cannot be shown without a program of the machine.
func (m *mesh) need(program string) {
	m.t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		m.t.Skipf("this test needs %s (a Debian package of that name)", program)
	}
}

// takenPort is a port that this process listens on.
func takenPort(t *testing.T) (port string, release func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, func() { l.Close() }
}
