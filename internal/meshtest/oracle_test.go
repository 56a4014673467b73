package meshtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/explain"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/route"
)

// TestOracle decides every case of the tables three times: with the compiled
// policies in process, by a request through two sidecars, and by explain. All
// three must say what the table says, which is what Istio documents.
func TestOracle(t *testing.T) {
	tables, err := filepath.Glob("testdata/oracle/*.txt")
	if err != nil || len(tables) == 0 {
		t.Fatalf("%d tables (%v)", len(tables), err)
	}
	cases := 0
	for _, path := range tables {
		blocks, err := readOracle(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks {
			cases += len(b.cases)
		}
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runOracle(t, blocks) })
		})
	}
	if cases < 400 {
		t.Errorf("%d cases; the tables promise 400", cases)
	}
}

func runOracle(t *testing.T, blocks []block) {
	w, err := newWorld(overH1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	text, err := os.ReadFile("testdata/oracle/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	base, _ := splitYAML("world.yaml", 1, strings.Split(string(text), "\n"))
	base = append(base, identify(document{file: "mesh.yaml", line: 1, text: oracleMesh}))
	w.docs = base
	if _, err := w.reconcile(); err != nil {
		t.Fatal(err)
	}
	o := &oracle{t: t, w: w}
	if hasTokens(blocks) {
		rule, err := o.issue()
		if err != nil {
			t.Fatal(err)
		}
		base = append(base, rule)
	}
	for i := range blocks {
		b := &blocks[i]
		w.docs = base[:len(base):len(base)]
		for j, p := range b.policies {
			w.docs = append(w.docs, o.policy(b, j, p))
		}
		problems, err := w.reconcile()
		if err != nil {
			t.Errorf("%s: %v", b.place, err)
			continue
		}
		synctest.Wait()
		o.told(b, problems)
		for j := range b.cases {
			o.decide(b, &b.cases[j])
		}
	}
}

// oracleMesh logs what the tables ask for.
const oracleMesh = `apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    accessLogFormat: |
      {"request": "%REQ(X-MESH-REQUEST)%", "audit": "%DYNAMIC_METADATA(tulle:audit_policy)%", "hint": "%DYNAMIC_METADATA(envoy.common:access_log_hint)%", "dry": "%DYNAMIC_METADATA(tulle:dry_run_verdict)%"}
`

type oracle struct {
	t      *testing.T
	w      *world
	issuer *issuer // of a table with tokens
}

// policy completes one to an object.
func (o *oracle) policy(b *block, i int, text string) document {
	for _, p := range o.w.pods {
		text = strings.ReplaceAll(text, "@"+p.Owner, p.Address.String())
	}
	if !strings.HasPrefix(strings.TrimSpace(text), "metadata:") {
		text = fmt.Sprintf("metadata: {name: p%d, namespace: shop}\nspec:\n  %s\n", i+1, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  "))
	}
	return identify(document{file: b.place, line: 1, text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n" + text})
}

// told compares what the user is told with what the block says.
func (o *oracle) told(b *block, problems []resource.Problem) {
	o.t.Helper()
	wanted := map[resource.Severity][]string{resource.Error: b.errors, resource.Warning: b.warnings}
	for _, p := range problems {
		found := false
		for _, text := range wanted[p.Severity] {
			found = found || strings.Contains(p.String(), text)
		}
		if !found {
			o.t.Errorf("%s: %s: unexpected %s: %s", b.place, b.title, p.Severity, p)
		}
	}
	for severity, texts := range wanted {
		for _, text := range texts {
			found := false
			for _, p := range problems {
				found = found || p.Severity == severity && strings.Contains(p.String(), text)
			}
			if !found {
				o.t.Errorf("%s: %s: no %s says %q in %v", b.place, b.title, severity, text, problems)
			}
		}
	}
}

func (o *oracle) decide(b *block, c *oracleCase) {
	o.t.Helper()
	pods := o.w.podsNamed(c.caller)
	if pods == nil {
		o.t.Errorf("%s: no caller %q", c.place, c.caller)
		return
	}
	from, target := pods[0], o.w.podsNamed("target")[0]
	if err := o.bear(c); err != nil {
		o.t.Errorf("%s: %v", c.place, err)
		return
	}
	d, err := o.inProcess(c, from, target)
	if err != nil {
		o.t.Errorf("%s: %v", c.place, err)
		return
	}
	o.same(b, c, "in process", d.Allow)
	if by := c.options["by"]; by != "" && by != shortPolicy(d.Policy) {
		o.t.Errorf("%s: %s: decided by %q, want %q\n%s", c.place, b.title, shortPolicy(d.Policy), by, c.text)
	}
	if want := c.options["audit"]; want != "" && want != shortPolicy(d.Audit) {
		o.t.Errorf("%s: %s: audited by %q, want %q", c.place, b.title, shortPolicy(d.Audit), want)
	}
	if want := c.options["dry"]; want != "" && (want == "allow") != d.Would() {
		o.t.Errorf("%s: %s: with the dry-run policies: %v, want %s", c.place, b.title, d.Would(), want)
	}
	o.same(b, c, "live", o.live(c, from))
	o.logged(b, c, target)
	a, err := explain.Explain(o.w.index, o.question(c, from), nil)
	if err != nil {
		o.t.Errorf("%s: explain: %v", c.place, err)
		return
	}
	o.same(b, c, "explain", a.Allowed)
	if want := c.options["dry"]; want != "" && want != a.DryRun {
		o.t.Errorf("%s: %s: explain: with the dry-run policies %q, want %s", c.place, b.title, a.DryRun, want)
	}
}

func (o *oracle) same(b *block, c *oracleCase, who string, allow bool) {
	o.t.Helper()
	if allow != c.allow {
		o.t.Errorf("%s: %s: %s: allowed is %v\n%s", c.place, b.title, who, allow, c.text)
	}
}

// shortPolicy is p1[0] for ns[shop]-policy[p1]-rule[0].
func shortPolicy(name string) string {
	_, rest, ok := strings.Cut(name, "-policy[")
	if !ok {
		return "none"
	}
	policy, rule, _ := strings.Cut(rest, "]-rule[")
	return policy + "[" + rule
}

// inProcess compiles the target's policies and asks them.
func (o *oracle) inProcess(c *oracleCase, from, target *pod) (authz.Decision, error) {
	port := map[string]uint16{"": 8080, "81": 8081, "5432": 5432}[c.port]
	chain := inboundFor(o.w.index.Snapshot(o.w.index.Node(target.Workload)), port, from.Sidecar && o.encrypted(c))
	if chain == nil {
		return authz.Decision{}, fmt.Errorf("no filter chain for port %d", port)
	}
	engine, err := authz.New(chain.Filters)
	if err != nil {
		return authz.Decision{}, err
	}
	in := &authz.Input{SourceIP: from.Address, RemoteIP: from.Address, DestinationIP: target.Address, DestinationPort: port}
	if from.Sidecar && o.encrypted(c) {
		in.Principal = o.w.index.Node(from.Workload).Principal()
		in.SNI = fmt.Sprintf("outbound_.%s_._.%s", firstText(c.port, "80"), targetHost)
	}
	if c.tcp {
		return engine.Check(in, nil), nil
	}
	u, err := url.Parse(c.req.url)
	if err != nil {
		return authz.Decision{}, err
	}
	path, query, _ := strings.Cut(u.RequestURI(), "?")
	if in.Path, err = route.NormalizePath(chain.HTTP.PathNormalization, path); err != nil {
		return authz.Decision{}, err
	}
	if query != "" {
		in.Query = "?" + query
	}
	fields := &header.Map{}
	for name, values := range c.req.header {
		for _, v := range values {
			fields.Add(strings.ToLower(name), v)
		}
	}
	in.HTTP, in.Method, in.Host, in.Headers = true, c.req.method, u.Host, fields
	if h := c.req.header["Host"]; h != nil {
		in.Host = h[0]
	}
	if xff := c.req.header.Values("x-forwarded-for"); len(xff) > 0 {
		last := xff[len(xff)-1]
		if a, err := netip.ParseAddr(strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])); err == nil {
			in.RemoteIP = a
		}
	}
	return engine.Check(in, &verifying{method: in.Method, query: in.Query, fields: fields}), nil
}

// encrypted: a caller's sidecar knows target under its own names only; what is
// asked for under another goes on in plaintext to the address called.
func (o *oracle) encrypted(c *oracleCase) bool {
	h := c.req.header["Host"]
	return h == nil || strings.HasPrefix(h[0], "target")
}

func inboundFor(s *ir.Snapshot, port uint16, mtls bool) *ir.FilterChain {
	for _, l := range s.Listeners {
		for _, c := range l.Chains {
			if l.Direction == ir.Inbound && c.Match.Port == port && (c.TLS != nil) == mtls {
				return c
			}
		}
	}
	return nil
}

// live sends the request through the caller's and the target's sidecars.
func (o *oracle) live(c *oracleCase, from *pod) bool {
	if c.tcp {
		return o.liveTCP(c, from)
	}
	out := from.client.do(&c.req, "1")
	switch {
	case out.err == nil && out.instance() == "nobody" && out.status == http.StatusForbidden && (out.body == "RBAC: access denied" || c.req.method == "HEAD"):
		return false
	case out.err == nil && out.instance() == "nobody" && out.header.Get("grpc-status") == "7":
		return false
	case out.err != nil || out.instance() == "nobody":
		o.t.Errorf("%s: neither allowed nor denied: %s %s", c.place, &out, out.body)
	}
	return true
}

// logged compares what the target's access log says beside the verdict.
func (o *oracle) logged(b *block, c *oracleCase, target *pod) {
	o.t.Helper()
	if c.options["audit"] == "" && c.options["dry"] == "" {
		return
	}
	pause(o.t.Context(), logBatch)
	synctest.Wait()
	lines := target.log.since(0)
	var last struct{ Audit, Hint, Dry string }
	if len(lines) == 0 || json.Unmarshal([]byte(lines[len(lines)-1]), &last) != nil {
		o.t.Errorf("%s: nothing is logged", c.place)
		return
	}
	if want := c.options["audit"]; want != "" && (want != shortPolicy(last.Audit) || (want == "none") == (last.Hint == "true")) {
		o.t.Errorf("%s: %s: logged as audited by %q (hint %q), want %q", c.place, b.title, last.Audit, last.Hint, want)
	}
	if want := c.options["dry"]; want != "" && want != last.Dry {
		o.t.Errorf("%s: %s: logged with the dry-run policies: %q, want %s", c.place, b.title, last.Dry, want)
	}
}

func (o *oracle) liveTCP(c *oracleCase, from *pod) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := from.client.dial(ctx, "tcp", targetHost+":5432")
	if err != nil {
		o.t.Errorf("%s: %v", c.place, err)
		return false
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("ping\n")); err != nil {
		return false
	}
	n, err := conn.Read(make([]byte, 64))
	return err == nil && n > 0
}

// question is the case as a user of explain writes it.
func (o *oracle) question(c *oracleCase, from *pod) explain.Question {
	q := explain.Question{From: from.Name, To: targetHost + ":" + firstText(c.port, "80"), Headers: map[string]string{}}
	if c.tcp {
		return q
	}
	u, _ := url.Parse(c.req.url)
	q.Method, q.Path = c.req.method, u.RequestURI()
	for name, values := range c.req.header {
		q.Headers[name] = strings.Join(values, ",")
	}
	return q
}

func firstText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
