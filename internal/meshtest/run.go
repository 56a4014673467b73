package meshtest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// runner runs one script over one protocol.
type runner struct {
	t       testing.TB
	script  *script
	world   *world
	notes   []note
	started map[string]*running // requests in the background, by name
	ids     int
	// asked, if set, is told of every request step (explain's agreement).
	asked func(r *runner, st *step, who string, q *request, outs []outcome)
}

// errorf reports a failure at a line of the script.
func (r *runner) errorf(line int, format string, args ...any) {
	r.t.Helper()
	r.t.Errorf("%s:%d: %s", r.script.file, line, fmt.Sprintf(format, args...))
}

// RunFile runs a script, once per protocol that it names, each in a bubble of
// its own: no real time passes.
func RunFile(t *testing.T, path string) { runFile(t, path, nil) }

func runFile(t *testing.T, path string, asked func(*runner, *step, string, *request, []outcome)) {
	s, err := parseScript(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.protocols {
		t.Run(string(p), func(t *testing.T) {
			switch p {
			case overH1, overH2, overGRPC:
			default:
				t.Fatalf("%s: protocol %q is not known (h1, h2, grpc are)", s.file, p)
			}
			s, err := parseScript(path) // a run takes it apart
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				w, err := newWorld(p)
				if err != nil {
					t.Fatal(err)
				}
				r := &runner{t: t, script: s, world: w, started: map[string]*running{}, asked: asked}
				defer w.close()
				defer r.abandon()
				r.run()
			})
		})
	}
}

// defaultMesh is in force where a script brings no MeshConfig: the access log
// as JSON, so that its fields can be named, with the number of the request.
const defaultMesh = `apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    accessLogFormat: |
      {"request": "%REQ(X-MESH-REQUEST)%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "protocol": "%PROTOCOL%",
       "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%", "termination": "%CONNECTION_TERMINATION_DETAILS%",
       "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "received": "%BYTES_RECEIVED%", "sent": "%BYTES_SENT%", "duration": "%DURATION%",
       "authority": "%REQ(:AUTHORITY)%", "upstream": "%UPSTREAM_HOST%", "cluster": "%UPSTREAM_CLUSTER%", "sni": "%REQUESTED_SERVER_NAME%",
       "route": "%ROUTE_NAME%", "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "peer": "%DOWNSTREAM_PEER_URI_SAN%", "grpc": "%GRPC_STATUS_NUMBER%"}
`

func (r *runner) run() {
	r.world.docs = []document{identify(document{file: "mesh.yaml", line: 1, text: defaultMesh})}
	for _, st := range r.script.steps {
		if err := r.step(st); err != nil {
			r.errorf(st.line, "%v", err)
			return
		}
		if r.t.Failed() {
			return // what follows builds on what has gone wrong
		}
	}
	for name, b := range r.started {
		r.errorf(b.step.line, "%q was begun and never ended", name)
	}
}

func (r *runner) step(st *step) error {
	word, rest, _ := strings.Cut(st.text, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "use":
		return r.use(st, rest)
	case "config", "apply":
		docs, notes := r.script.yamlOf(st)
		return r.apply(docs, notes)
	case "delete":
		return r.delete(rest)
	case "unready", "ready", "stop":
		return r.readiness(st, word, rest)
	case "wait":
		d, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		r.pause(d)
		return nil
	case "app", "network":
		name, what, ok := strings.Cut(rest, ": ")
		if !ok {
			return fmt.Errorf("want %q", word+" NAME: WHAT")
		}
		if word == "network" {
			return r.network(name, what)
		}
		return r.behave(name, what)
	case "release":
		return r.release(rest)
	case "credential":
		return r.credential(rest)
	case "external":
		return r.external(rest)
	case "from":
		return r.from(st, rest)
	case "begin":
		return r.begin(st, rest)
	case "end":
		return r.end(st, rest)
	case "metric":
		return r.metric(rest)
	}
	return fmt.Errorf("%q is not a step", word)
}

// pause lets virtual time pass and everything that it sets off happen.
func (r *runner) pause(d time.Duration) {
	pause(r.t.Context(), d)
	synctest.Wait()
}

// use adds a file of configuration from the folder above the script.
func (r *runner) use(_ *step, name string) error {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(r.script.dir), name))
	if err != nil {
		return err
	}
	docs, notes := splitYAML(name, 1, strings.Split(string(b), "\n"))
	return r.apply(docs, notes)
}

// apply adds documents, or replaces those of the same kind and name.
func (r *runner) apply(docs []document, notes []note) error {
	for _, d := range docs {
		replaced := false
		for i := range r.world.docs {
			if d.same(&r.world.docs[i]) {
				r.forget(&r.world.docs[i])
				r.world.docs[i], replaced = d, true
			}
		}
		if !replaced {
			r.world.docs = append(r.world.docs, d)
		}
	}
	r.notes = append(r.notes, notes...)
	return r.reconcile()
}

// forget drops the notes of a document that is leaving.
func (r *runner) forget(d *document) {
	last := d.line + strings.Count(d.text, "\n")
	kept := r.notes[:0]
	for _, n := range r.notes {
		if n.file != d.file || n.line < d.line || n.line > last {
			kept = append(kept, n)
		}
	}
	r.notes = kept
}

func (r *runner) delete(what string) error {
	kind, name, ok := strings.Cut(what, " ")
	ns, short, qualified := strings.Cut(name, "/")
	if !qualified {
		ns, short = "", name
	}
	if !ok {
		return fmt.Errorf("want \"delete KIND [NAMESPACE/]NAME\"")
	}
	for i := range r.world.docs {
		d := &r.world.docs[i]
		if d.kind == kind && d.name == short && (ns == "" || d.namespace == ns) {
			r.forget(d)
			r.world.docs = append(r.world.docs[:i], r.world.docs[i+1:]...)
			return r.reconcile()
		}
	}
	return fmt.Errorf("there is no %s %s", kind, name)
}

// reconcile puts the configuration in force and compares what the user is told
// with what the notes say.
func (r *runner) reconcile() error {
	problems, err := r.world.reconcile()
	if err != nil {
		return err
	}
	synctest.Wait()
	met := make([]bool, len(r.notes))
	for _, p := range problems {
		if !r.noted(p, met) {
			r.t.Errorf("%s: the script does not expect this %s", p, p.Severity)
		}
	}
	for i, n := range r.notes {
		if !met[i] {
			r.t.Errorf("%s:%d: no %s %q was reported here", n.file, n.line, n.severity, n.text)
		}
	}
	return nil
}

func (r *runner) noted(p resource.Problem, met []bool) bool {
	for i, n := range r.notes {
		if n.file == p.Origin.File && n.line == p.Origin.Line && n.severity == string(p.Severity) && strings.Contains(p.String(), n.text) {
			met[i] = true
			return true
		}
	}
	return false
}

func (r *runner) readiness(st *step, word, name string) error {
	pods := r.world.podsNamed(name)
	if pods == nil {
		return fmt.Errorf("no workload %q", name)
	}
	for _, p := range pods {
		switch word {
		case "stop":
			r.world.gone[p.Name] = true
		default:
			r.world.unready[p.Name] = word == "unready"
		}
	}
	o := outcome{started: time.Now()}
	if err := r.reconcile(); err != nil {
		return err
	}
	o.took = time.Since(o.started)
	if len(st.block) == 0 {
		return nil
	}
	return r.check(st, []outcome{o}, nil, nil)
}

func (r *runner) network(name, what string) error {
	pods := r.world.podsNamed(name)
	if pods == nil {
		return fmt.Errorf("no workload %q", name)
	}
	drops, refuses, latency := false, false, time.Duration(0)
	switch word, rest, _ := strings.Cut(what, " "); {
	case what == "drops packets":
		drops = true
	case what == "refuses connections":
		refuses = true
	case word == "delays":
		var err error
		if latency, err = time.ParseDuration(rest); err != nil {
			return err
		}
	case what == "normal":
	default:
		return fmt.Errorf("%q: want \"drops packets\", \"refuses connections\", \"delays DURATION\" or \"normal\"", what)
	}
	r.world.net.mu.Lock()
	defer r.world.net.mu.Unlock()
	for _, p := range pods {
		p.host.dropped, p.host.refusing = drops, refuses
		p.host.latency.Store(int64(latency))
	}
	return nil
}

var externalLine = regexp.MustCompile(`^(\S+) at (\S+): (.*)$`)

// external puts a server outside of the mesh: "NAME at ADDRESS: PORT KIND, …".
func (r *runner) external(what string) error {
	m := externalLine.FindStringSubmatch(what)
	if m == nil {
		return fmt.Errorf("want \"external NAME at ADDRESS: PORT http|https|tcp|tls, …\"")
	}
	addr, err := netip.ParseAddr(m[2])
	if err != nil {
		return err
	}
	ports := map[uint16]string{}
	for _, part := range strings.Split(m[3], ", ") {
		number, kind, _ := strings.Cut(part, " ")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || spoken(kind) != kind {
			return fmt.Errorf("%q is not \"PORT http|https|tcp|tls\"", part)
		}
		ports[uint16(n)] = kind
	}
	p := &pod{Workload: &resource.Workload{Name: m[1], Namespace: "default", Address: addr}, host: r.world.net.host(m[1], addr)}
	if p.app, err = r.world.newApp(p, ports, m[1]); err != nil {
		return err
	}
	r.world.externals[m[1]] = p
	return nil
}

// credential makes the Secret of a gateway server: "NAMESPACE/NAME for HOST".
func (r *runner) credential(what string) error {
	m := regexp.MustCompile(`^(\S+)/(\S+) for (\S+)$`).FindStringSubmatch(what)
	if m == nil {
		return fmt.Errorf("want \"credential NAMESPACE/NAME for HOST\"")
	}
	chain, key, err := r.world.authority.ServerPEM(m[3])
	if err != nil {
		return err
	}
	text := fmt.Sprintf("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: %s, namespace: %s}\nstringData:\n  tls.crt: %s\n  tls.key: %s\n",
		m[2], m[1], strconv.Quote(string(chain)), strconv.Quote(string(key)))
	return r.apply([]document{identify(document{file: "credential", line: 1, text: text})}, nil)
}

// running are requests in the background.
type running struct {
	step *step
	who  string
	req  *request
	mark marks
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	outs []outcome
}

func (b *running) add(o outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outs = append(b.outs, o)
}

// begin starts requests that go on while the script does.
func (r *runner) begin(st *step, rest string) error {
	name, what, ok := strings.Cut(rest, ": from ")
	if !ok || r.started[name] != nil {
		return fmt.Errorf("want \"begin NAME: from …\" with a name that is not in use")
	}
	q, err := r.question(st, what)
	if err != nil {
		return err
	}
	b := &running{step: st, who: q.who, req: q.req, mark: r.marks(), stop: make(chan struct{})}
	r.started[name] = b
	c := q.pod.client
	send := func(id string) { b.wg.Go(func() { b.add(c.do(q.req, id)) }) }
	if q.every == 0 {
		for range q.times {
			send(r.nextID())
		}
		synctest.Wait()
		return nil
	}
	b.wg.Go(func() {
		tick := time.NewTicker(q.every)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				send(name + strconv.Itoa(i))
			case <-b.stop:
				return
			}
		}
	})
	return nil
}

// end waits for them and checks how they went.
func (r *runner) end(st *step, name string) error {
	b := r.started[name]
	if b == nil {
		return fmt.Errorf("nothing named %q was begun", name)
	}
	delete(r.started, name)
	close(b.stop)
	b.wg.Wait()
	synctest.Wait()
	return r.check(st, b.outs, b.mark, b.req)
}

// abandon ends what a failed script left running.
func (r *runner) abandon() {
	for _, p := range r.world.pods {
		if p.app != nil {
			p.app.cancel()
		}
	}
	for _, b := range r.started {
		close(b.stop)
	}
	r.world.net.closeAll()
	for _, b := range r.started {
		b.wg.Wait()
	}
}

func (r *runner) nextID() string {
	r.ids++
	return strconv.Itoa(r.ids)
}
