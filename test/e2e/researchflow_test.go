package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// One mesh serves all of these, in order: a start costs seconds.
func TestResearchFlow(t *testing.T) {
	m := start(t)
	sub := func(name string, f func(m *mesh)) {
		t.Run(name, func(t *testing.T) {
			inner := *m
			inner.t = t
			f(&inner)
		})
	}
	sub("page and API through the gateway", throughTheGateway)
	sub("HTTPS", https)
	sub("WebSocket", webSocket)
	sub("identity decides between workloads", identityDecides)
	sub("plaintext is reset", plaintextIsReset)
	sub("openssl sees the worker's certificate", opensslSees)
	sub("mtls verify", mtlsVerify)
	sub("evidence", evidence)
	sub("listeners", listeners)
	sub("an application's reach", applicationsReach)
	sub("commands", commands)
	sub("explain", explain)
	sub("OPA's REST API", opaREST)
	sub("a broken policy keeps the old one", brokenPolicy)
	sub("a broken manifest keeps the old one", brokenManifest)
	sub("a worker that dies loses no request", workerDies)
	sub("a worker that fails is ejected and returns", workerFails)
	sub("a shorter timeout is in force at once", shorterTimeout)
}

func throughTheGateway(m *mesh) {
	base := "http://" + m.gateway
	for _, tc := range []struct {
		role, method, path, body string
		want                     int
	}{
		{"", "GET", "/", "", 200},
		{"", "GET", "/api/jobs", "", 403},
		{"viewer", "GET", "/api/jobs", "", 200},
		{"viewer", "POST", "/api/jobs", `{"title":"x"}`, 403},
		{"viewer", "POST", "/graphql", `{"query":"{ jobs { id } }"}`, 200},
		{"", "POST", "/graphql", `{"query":"{ jobs { id } }"}`, 403},
		{"researcher", "GET", "/api/admin/stats", "", 403},
		{"admin", "GET", "/api/admin/stats", "", 200},
	} {
		if got, body := m.call(tc.role, tc.method, base+tc.path, tc.body); got != tc.want {
			m.t.Errorf("%s %s %s: %d, want %d: %s", tc.role, tc.method, tc.path, got, tc.want, body)
		}
	}
	status, body := m.call("researcher", "POST", base+"/api/jobs", `{"title":"sequence","steps":3}`)
	var job struct{ ID, State string }
	if err := json.Unmarshal([]byte(body), &job); status != 201 || err != nil {
		m.t.Fatalf("POST: %d %s", status, body)
	}
	m.eventually(20*time.Second, func() error {
		_, body := m.call("viewer", "GET", base+"/api/jobs/"+job.ID, "")
		if err := json.Unmarshal([]byte(body), &job); err != nil || job.State != "done" {
			return fmt.Errorf("the job is not done: %s", body)
		}
		return nil
	})
	if got, body := m.call("researcher", "DELETE", base+"/api/jobs/"+job.ID, ""); got != 403 {
		m.t.Errorf("researcher DELETE: %d %s", got, body)
	}
	if got, body := m.call("admin", "DELETE", base+"/api/jobs/"+job.ID, ""); got != 200 {
		m.t.Errorf("admin DELETE: %d %s", got, body)
	}
}

func https(m *mesh) {
	m.need("curl")
	out, err := exec.Command("curl", "-s", "--cacert", filepath.Join(m.state(), "root-cert.pem"), "-o", "/dev/null", "-w", "%{http_code}", "https://"+m.https+"/").Output()
	if err != nil || string(out) != "200" {
		m.t.Errorf("curl: %s %v", out, err)
	}
}

func webSocket(m *mesh) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	dial := func() *websocket.Conn {
		c, _, err := websocket.Dial(ctx, "ws://"+m.gateway+"/ws?room=e2e", nil)
		if err != nil {
			m.t.Fatal(err)
		}
		return c
	}
	a, b := dial(), dial()
	defer a.CloseNow()
	defer b.CloseNow()
	if err := a.Write(ctx, websocket.MessageText, []byte("hello from a")); err != nil {
		m.t.Fatal(err)
	}
	for {
		_, msg, err := b.Read(ctx)
		if err != nil {
			m.t.Fatal(err)
		}
		if strings.Contains(string(msg), "hello from a") {
			return
		}
	}
}

func identityDecides(m *mesh) {
	m.need("curl")
	for from, want := range map[string]string{"web": "403", "orchestrator": "200"} {
		out, code := m.tulle("exec", from, "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://worker:8000/api/jobs")
		if out != want || code != 0 {
			m.t.Errorf("%s calls the worker: %q (exit %d), want %s", from, out, code, want)
		}
	}
	if out, code := m.tulle("exec", "web", "--", "sh", "-c", "exit 7"); code != 7 {
		m.t.Errorf("exec passes on the exit code: %d %s", code, out)
	}
}

func plaintextIsReset(m *mesh) {
	m.need("curl")
	out, code := m.tulle("exec", "web", "-c", "istio-proxy", "--", "curl", "-sS", "http://worker:8000/healthz")
	if code != 56 || !strings.Contains(out, "reset") {
		m.t.Errorf("plaintext to a STRICT port: exit %d %s; want a reset", code, out)
	}
}

func opensslSees(m *mesh) {
	m.need("openssl")
	out, _ := m.tulle("exec", "orchestrator", "-c", "istio-proxy", "--", "sh", "-c", "openssl s_client -connect worker:8000 </dev/null 2>/dev/null | tee /dev/stderr | openssl x509 -noout -ext subjectAltName")
	for _, want := range []string{"TLSv1.3", "Verify return code: 0 (ok)", "URI:spiffe://cluster.local/ns/researchflow/sa/worker"} {
		if !strings.Contains(out, want) {
			m.t.Errorf("openssl does not print %q:\n%s", want, out)
		}
	}
}

func mtlsVerify(m *mesh) {
	out, code := m.tulle("mtls", "verify", "--from", "web", "--to", "worker", "-o", "json")
	var checks []struct {
		To, Mode, Plaintext string
		OK                  bool
		Policy              struct{ File string }
		Handshake           struct{ Version, Peer string }
	}
	if err := json.Unmarshal([]byte(out), &checks); err != nil || code != 0 {
		m.t.Fatalf("exit %d: %v\n%s", code, err, out)
	}
	if len(checks) != 3 {
		m.t.Errorf("%d checks, want one for each worker", len(checks))
	}
	for _, c := range checks {
		if !c.OK || c.Mode != "STRICT" || c.Plaintext != "refused" || c.Handshake.Version != "TLS 1.3" || c.Handshake.Peer != "spiffe://cluster.local/ns/researchflow/sa/worker" || !strings.HasSuffix(c.Policy.File, "peer-authentication.yaml") {
			m.t.Errorf("%+v", c)
		}
	}
}

func commands(m *mesh) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"proxy-status"}, "worker-v1-0.researchflow"},
		{[]string{"proxy-config", "listeners", "web"}, "virtualInbound"},
		{[]string{"proxy-config", "routes", "orchestrator"}, "canary"},
		{[]string{"proxy-config", "clusters", "orchestrator"}, "worker.researchflow.svc.cluster.local"},
		{[]string{"proxy-config", "endpoints", "orchestrator"}, "worker-v2-0"},
		{[]string{"pc", "c", "orchestrator", "--fqdn", "worker", "--subset", "v2", "--direction", "outbound"}, "v2"},
		{[]string{"pc", "l", "orchestrator", "--port", "15006", "--type", "http"}, "virtualInbound"},
		{[]string{"proxy-config", "secret", "worker"}, "spiffe://cluster.local/ns/researchflow/sa/worker"},
		{[]string{"describe", "virtualservice", "orchestrator", "-n", "researchflow"}, "virtual-services.yaml:"},
		{[]string{"describe", "svc", "worker"}, "peer-authentication.yaml:"},
		{[]string{"describe", "pod/worker-v1-0", "-n", "researchflow"}, "spiffe://cluster.local/ns/researchflow/sa/worker"},
		{[]string{"get", "peerauthentication", "-n", "researchflow"}, "default"},
		{[]string{"routes", "worker"}, "canary"},
		{[]string{"logs", "-n", "researchflow", "-l", "app.kubernetes.io/component=orchestrator", "-c", "istio-proxy", "--tail=100"}, "outbound|8000||worker"},
		{[]string{"logs", "opa"}, "decision_id"},
		{[]string{"logs", "worker-v1-0", "--since", "1h", "--timestamps", "--tail", "1000"}, "Z {"},
		{[]string{"version"}, "tulle "},
	} {
		if out, code := m.tulle(tc.args...); code != 0 || !strings.Contains(out, tc.want) {
			m.t.Errorf("tulle %s: exit %d, want %q in\n%s", strings.Join(tc.args, " "), code, tc.want, out)
		}
	}
	for _, args := range [][]string{{"proxy-status"}, {"proxy-config", "routes", "web"}, {"get", "vs"}, {"describe", "svc", "web"}, {"describe", "pod", "web"}, {"routes", "web"}, {"mtls", "verify", "--to", "web"}} {
		out, _ := m.tulle(append(args, "-o", "json")...)
		if !json.Valid([]byte(out)) {
			m.t.Errorf("tulle %s -o json is not JSON:\n%.300s", strings.Join(args, " "), out)
		}
	}
	if out, code := m.tulle("exec", "nobody", "--", "true"); code != 1 || !strings.Contains(out, "worker-v1-0") {
		m.t.Errorf("an unknown workload: exit %d %s; want the names that there are", code, out)
	}
}

func explain(m *mesh) {
	out, code := m.tulle("explain", "--from", "web", "--to", "worker:8000", "--path", "/api/jobs")
	if code != 3 || !strings.Contains(out, "authorization-policy.yaml:") || !strings.Contains(out, "answered by the mesh: 403") {
		m.t.Errorf("exit %d\n%s", code, out)
	}
	out, code = m.tulle("explain", "--from", "istio-ingressgateway", "--to", "localhost", "--path", "/api/jobs", "-H", "Authorization: Bearer "+m.tokens["viewer"])
	if code != 0 || !strings.Contains(out, "said yes") {
		m.t.Errorf("exit %d\n%s", code, out)
	}
}

func opaREST(m *mesh) {
	input := fmt.Sprintf(`{"input":{"attributes":{"request":{"http":{"method":"GET","path":"/api/jobs","headers":{"authorization":"Bearer %s"}}}}}}`, m.tokens["viewer"])
	for body, want := range map[string]string{input: `{"result":true}`, `{"input":{}}`: `{"result":false}`} {
		status, got := m.call("", "POST", "http://"+m.opa+"/v1/data/envoy/authz/allow", body)
		if status != 200 || strings.TrimSpace(got) != want {
			m.t.Errorf("%d %s, want %s", status, got, want)
		}
	}
}

func brokenPolicy(m *mesh) {
	before := m.edit("base/opa/policy.rego", "default allow := false", "default allow := := false")
	m.eventually(10*time.Second, func() error {
		if out, _ := m.tulle("logs", "opa"); !strings.Contains(out, "policy.rego:9: rego_parse_error") {
			return fmt.Errorf("no error with its position in the log")
		}
		return nil
	})
	if got, _ := m.call("viewer", "GET", "http://"+m.gateway+"/api/jobs", ""); got != 200 {
		m.t.Errorf("the old policy decides no more: %d", got)
	}
	if got, _ := m.call("", "GET", "http://"+m.gateway+"/api/jobs", ""); got != 403 {
		m.t.Errorf("the old policy decides no more: %d", got)
	}
	m.write("base/opa/policy.rego", before)
}

func brokenManifest(m *mesh) {
	before := m.edit("base/istio/virtual-services.yaml", "timeout: 60s", "timeoutt: 60s")
	m.eventually(10*time.Second, func() error {
		if !strings.Contains(m.out.String(), "spec.http[0].timeoutt: unknown field (did you mean timeout?") {
			return fmt.Errorf("the error is not shown")
		}
		return nil
	})
	if got, body := m.call("viewer", "GET", "http://"+m.gateway+"/api/work", ""); got != 200 {
		m.t.Errorf("the mesh went down with the manifest: %d %s", got, body)
	}
	m.write("base/istio/virtual-services.yaml", before)
}

// load sends requests from several callers until stopped and returns how many
// went well, and what did not.
func (m *mesh) load() (stop func() (int64, []string)) {
	var good atomic.Int64
	var mu sync.Mutex
	var bad []string
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				status, body, err := m.try("viewer", "GET", "http://"+m.gateway+"/api/work", "")
				if status == 200 && err == nil {
					good.Add(1)
					continue
				}
				mu.Lock()
				bad = append(bad, fmt.Sprintf("%d %.100s %v", status, body, err))
				mu.Unlock()
			}
		})
	}
	return func() (int64, []string) {
		// How fast the machine is decides how soon there is enough to judge by.
		m.eventually(60*time.Second, func() error {
			if n := good.Load(); n < 20 {
				return fmt.Errorf("only %d requests went well", n)
			}
			return nil
		})
		close(done)
		wg.Wait()
		return good.Load(), bad
	}
}

// outlier waits until at least so many orchestrators see the worker like that.
func (m *mesh) outlier(instance, state string, observers int, limit time.Duration) {
	m.t.Helper()
	m.eventually(limit, func() error {
		seen := 0
		for _, o := range []string{"orchestrator-0", "orchestrator-1"} {
			out, _ := m.tulle("proxy-config", "endpoints", o)
			for _, line := range strings.Split(out, "\n") {
				if strings.Contains(line, instance) && strings.Contains(line, "8000||") && strings.Contains(line, state) {
					seen++
				}
			}
		}
		if seen < observers {
			return fmt.Errorf("%d orchestrators see %s %s, want %d", seen, instance, state, observers)
		}
		return nil
	})
}

func workerDies(m *mesh) {
	m.need("curl")
	stop := m.load()
	if err := m.kill("HOSTNAME=worker-v1-1\x00"); err != nil {
		m.t.Error(err)
	}
	m.eventually(15*time.Second, func() error {
		out, _ := m.tulle("logs", "worker")
		if !strings.Contains(out, "signal: killed") {
			return fmt.Errorf("no worker was killed and restarted")
		}
		return nil
	})
	m.eventually(15*time.Second, func() error {
		var sum string
		for _, o := range []string{"orchestrator-0", "orchestrator-1"} {
			out, _ := m.tulle("exec", o, "-c", "istio-proxy", "--", "curl", "-s", "localhost:15090/stats/prometheus")
			sum += out
		}
		for _, line := range strings.Split(sum, "\n") {
			if strings.HasPrefix(line, `envoy_cluster_upstream_rq_retry{cluster_name="outbound|8000||worker`) && !strings.HasSuffix(line, " 0") {
				return nil
			}
		}
		return fmt.Errorf("no retry in the metrics")
	})
	good, bad := stop()
	if len(bad) > 0 {
		m.t.Errorf("%d requests went well, %d did not: %s", good, len(bad), few(bad))
	}
}

func workerFails(m *mesh) {
	m.need("curl")
	for _, w := range []string{"worker-v1-0", "worker-v1-1", "worker-v2-0"} { // one in three may be ejected at a time
		m.outlier(w, "OK", 2, 60*time.Second)
	}
	stop := m.load()
	if out, code := m.tulle("exec", "worker-v1-0", "--", "curl", "-s", "-X", "POST", "http://localhost:8001/fail?status=500&for=3s"); code != 0 {
		m.t.Errorf("fail: %s", out)
	}
	m.outlier("worker-v1-0", "EJECTED", 1, 15*time.Second)
	m.outlier("worker-v1-0", "OK", 2, 60*time.Second)
	good, bad := stop()
	if len(bad) > 0 {
		m.t.Errorf("%d requests went well, %d did not: %s", good, len(bad), few(bad))
	}
}

func shorterTimeout(m *mesh) {
	m.need("curl")
	slow := func() string {
		out, _ := m.tulle("exec", "orchestrator-0", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://worker:8000/work?ms=2000")
		return out
	}
	if got := slow(); got != "200" {
		m.t.Errorf("with 30s: %s, want 200", got)
	}
	stop := m.load()
	m.edit("base/istio/virtual-services.yaml", "timeout: 30s", "timeout: 1s")
	m.eventually(5*time.Second, func() error {
		if out, _ := m.tulle("proxy-config", "routes", "orchestrator-0"); strings.Contains(out, " 30s ") {
			return fmt.Errorf("the old timeout is in force")
		}
		return nil
	})
	if got := slow(); got != "504" {
		m.t.Errorf("with 1s: %s, want 504", got)
	}
	if _, bad := stop(); len(bad) > 0 {
		m.t.Errorf("the change lost requests: %s", few(bad))
	}
}

// A killed parent takes everything with it, and the next start cleans up.
func TestKilledParentLeavesNothing(t *testing.T) {
	m := start(t)
	if err := m.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-m.ended
	m.eventually(5*time.Second, func() error {
		if left := processes(m.dir); len(left) > 0 {
			return fmt.Errorf("processes are left: %v", left)
		}
		return nil
	})
	m.out = &output{}
	m.run()
	out, code := m.tulle("down")
	if code != 0 {
		t.Errorf("down: %d %s", code, out)
	}
	m.awaitEnd()
	m.leftNothing()
}

// A port that is taken names its holder and the way out.
func TestTakenPort(t *testing.T) {
	build(t)
	dir := t.TempDir()
	manifest := `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: default}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec: {containers: [{name: a, image: a, ports: [{name: http, containerPort: 80}]}]}
`
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &mesh{t: t, dir: dir}
	ports, release := takenPort(t)
	defer release()
	out, code := m.tulle("up", dir, "--port", "gateway="+ports)
	if code != 1 || !strings.Contains(out, "port "+ports+" (gateway) is taken by ") || !strings.Contains(out, "(process ") || !strings.Contains(out, "--port gateway=") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, bad := range [][]string{{"up"}, {"up", dir, "--port", "gateway=x"}, {"up", dir, "--port", "console=1"}, {"up", dir, "--run", "x"}} {
		if out, code := m.tulle(bad...); code != 2 || strings.Count(out, "\n") > 3 {
			t.Errorf("tulle %v: exit %d, want 2 and a short text: %s", bad, code, out)
		}
	}
}
