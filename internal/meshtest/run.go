package meshtest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// runner runs one script over one protocol.
type runner struct {
	t       testing.TB
	script  *script
	world   *world
	notes   []note
	started map[string]*running // requests in the background, by name
	tokens  map[string]string   // by "$NAME"
	ids     int
	dirty   bool     // configuration was added that is not in force yet
	foreign []string // files whose warnings are not the script's to note
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
	protocols := s.protocols
	if testing.Short() && len(protocols) > 1 { // one of them; the scripts together have all
		n := len(path) % len(protocols)
		protocols = protocols[n : n+1]
	}
	for _, p := range protocols {
		t.Run(string(p), func(t *testing.T) {
			switch p {
			case overH1, overH2, overHTTP2, overGRPC:
			default:
				t.Fatalf("%s: protocol %q is not known (h1, h2, http2, grpc are)", s.file, p)
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
				r := &runner{t: t, script: s, world: w, started: map[string]*running{}, tokens: map[string]string{}, asked: asked}
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
	synctest.Wait()
	if r.world.keysChanged.Swap(false) {
		r.dirty = r.dirty || len(r.world.pods) > 0
	}
	if r.dirty && word != "use" && word != "config" && word != "issuer" && word != "token" {
		if err := r.reconcile(); err != nil {
			return err
		}
	}
	switch word {
	case "use":
		return r.use(rest)
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
	case "issuer":
		return r.issuer(rest)
	case "token":
		return r.token(st, rest)
	case "release":
		return r.release(rest)
	case "credential":
		return r.credential(rest)
	case "name":
		return r.world.names.set(rest)
	case "certificate":
		who, kind, ok := strings.Cut(rest, ": ")
		if !ok {
			return fmt.Errorf("want %q", "certificate NAME: KIND")
		}
		return r.world.misidentify(who, kind)
	case "certificates":
		return r.renewals(rest)
	case "rotate":
		return r.rotate(st, rest)
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
	case "edge", "denial":
		return r.evidence(word, rest)
	}
	return fmt.Errorf("%q is not a step", word)
}

// pause lets virtual time pass and everything that it sets off happen.
func (r *runner) pause(d time.Duration) {
	pause(r.t.Context(), d)
	synctest.Wait()
}

func (r *runner) nextID() string {
	r.ids++
	return strconv.Itoa(r.ids)
}
