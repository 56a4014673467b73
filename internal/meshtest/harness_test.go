package meshtest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/tulle-mesh/tulle/internal/explain"
)

// recorder takes a script's failures instead of reporting them.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}
func (r *recorder) Failed() bool { return len(r.failures) > 0 }
func (r *recorder) Helper()      {}

// TestWrongExpectations: every kind of expectation fails where it should, at
// its line. A harness that cannot fail proves nothing.
func TestWrongExpectations(t *testing.T) {
	const get = "from web GET http://worker:8000/a\n"
	cases := []struct{ script, want string }{
		{get + "  status 404", "s.mesh:3: status 404: got 200 from worker-v"},
		{get + "  status 200 2 times", "s.mesh:3: status 200 2 times: 1 of 1"},
		{get + "  answered by web", "got 200 from worker-v"},
		{get + "  answered by nobody", "got 200 from worker-v"},
		{get + "  header server: nginx", `got []`},
		{get + "  header x-none present", "got none"},
		{get + "  no header x-instance", `got ["worker-v`},
		{get + "  body \"no\"", `got "hello from worker-v`},
		{get + "  body contains \"no\"", `got "hello from worker-v`},
		{get + "  took 1ms", "got 0s"},
		{get + "  fails reset", "got 200 from"},
		{get + "  app saw path /b", "got /a"},
		{get + "  app saw host web", "got worker:8000"},
		{get + "  app saw method PUT", "got GET"},
		{get + "  app saw header x-a: b", "got []"},
		{get + "  app saw no header user-agent", `got ["Go-http-client`},
		{get + "  app saw nothing", "got 1 attempts"},
		{get + "  app saw 2 attempts", "got 1 attempts"},
		{get + "  app saw instances 2", "got [worker-v"},
		{get + "  log web: flags UO", "s.mesh:3: none of 1 lines has that"},
		{get + "  log worker: status 200, details nothing", "s.mesh:3: none of 1 lines"},
		{get + "  looks nice", `s.mesh:2: line 3: "looks nice" is not an expectation`},
		{"from web GET http://worker:8000/ 200 times\n  answered by worker-v1 about 80%", "would be within chance"},
		{"from web GET http://nowhere/", "s.mesh:2: request 1 of 1: failed"},
		{"from web TCP db:5432\n  sends \"a\"\n  reads \"b\"", "s.mesh:4: read \"db-v"},
		{"from web TCP db:5432\n  is reset", "s.mesh:3: read \"\", EOF"},
		{"from web TCP db:5432\n  sends \"a\"\n  is reset", "s.mesh:4: read \"db-v"},
		{"metric web istio_requests_total is 1", "s.mesh:2: it is 0"},
		{"from nobody GET http://worker:8000/", `s.mesh:2: no workload "nobody"`},
		{"begin a: from web GET http://worker:8000/", `s.mesh:2: "a" was begun and never ended`},
		{"end a", `s.mesh:2: nothing named "a" was begun`},
		{"app worker: dances", "s.mesh:2: \"dances\" is nothing an application can do"},
		{"delete VirtualService shop/none", "s.mesh:2: there is no VirtualService shop/none"},
		{"dance", `s.mesh:2: "dance" is not a step`},
		{"config\n  apiVersion: v1\n  kind: Service\n  metadata: {name: a}  # problem: ugly", `s.mesh:5: no error "ugly" was reported here`},
		{"config\n  apiVersion: networking.istio.io/v1\n  kind: Servant\n  metadata: {name: a}", "the script does not expect this"},
	}
	for _, c := range cases {
		if got := failuresOf(t, c.script); !strings.Contains(strings.Join(got, "\n"), c.want) {
			t.Errorf("%s\nwant %q in\n%s", c.script, c.want, strings.Join(got, "\n"))
		}
	}
}

func failuresOf(t *testing.T, text string) (failures []string) {
	t.Helper()
	dir := t.TempDir()
	shop, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "g", "s.mesh")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shop.yaml"), shop, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("use shop.yaml\n"+text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := parseScript(path)
	if err != nil {
		return []string{err.Error()}
	}
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(overH1)
		if err != nil {
			t.Fatal(err)
		}
		rec := &recorder{TB: t}
		r := &runner{t: rec, script: s, world: w, started: map[string]*running{}}
		defer w.close()
		defer r.abandon()
		r.run()
		failures = rec.failures
	})
	return failures
}

// TestDisagreement: every kind of wrong answer of explain is noticed.
func TestDisagreement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := shopWorld(t, "")
		defer w.close()
		r := &runner{t: t, world: w}
		from := func(instance string, status int) *outcome {
			return &outcome{status: status, header: http.Header{instanceHeader: {instance}}}
		}
		refused := &outcome{status: 403, body: "RBAC: access denied"}
		route := func(cluster string) []explain.Step {
			return []explain.Step{{Step: "route", Outcome: "route default to " + cluster + ", 2 retries"}}
		}
		const worker, db = "outbound|8000||worker.shop.svc.cluster.local", "outbound|5432||db.shop.svc.cluster.local"
		for _, c := range []struct {
			name  string
			a     explain.Answer
			o     *outcome
			wrong bool
		}{
			{"allowed and reached", explain.Answer{Allowed: true, Steps: route(worker)}, from("worker-v1-0", 200), false},
			{"reached another service", explain.Answer{Allowed: true, Steps: route(db)}, from("worker-v1-0", 200), true},
			{"allowed and refused", explain.Answer{Allowed: true, Steps: route(worker)}, refused, true},
			{"allowed and reset", explain.Answer{Allowed: true}, &outcome{err: syscall.ECONNRESET}, true},
			{"allowed and too slow", explain.Answer{Allowed: true}, &outcome{status: 504}, false},
			{"refused and refused", explain.Answer{Status: 403}, refused, false},
			{"refused and reached", explain.Answer{Status: 403}, from("worker-v1-0", 200), true},
			{"refused, by the application too", explain.Answer{Status: 403}, from("worker-v1-0", 403), true},
			{"another status", explain.Answer{Status: 404}, refused, true},
			{"refused without status, reached", explain.Answer{}, from("worker-v1-0", 200), true},
			{"reset and reached", explain.Answer{Status: 503, Flag: "UC"}, from("worker-v1-0", 200), true},
			{"reset and reset", explain.Answer{Status: 503, Flag: "UC"}, &outcome{status: 503}, false},
		} {
			if why := disagreement(r, "web-0", &c.a, c.o); (why != "") != c.wrong {
				t.Errorf("%s: %q", c.name, why)
			}
		}
	})
}
