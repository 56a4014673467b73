package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func TestPairForwards(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-got-xfcc", r.Header.Get("x-forwarded-client-cert"))
		w.Header().Set("x-got-id", r.Header.Get("x-request-id"))
		w.Header().Set("x-got-peer", r.Header.Get(peerHeader))
		fmt.Fprintf(w, "%s %s", r.Method, r.URL)
	}), nil)
	resp, body := m.get("/jobs?x=1")
	if resp.StatusCode != 200 || body != "GET /jobs?x=1" {
		t.Fatal(resp.Status, body)
	}
	if x := resp.Header.Get("x-got-xfcc"); !strings.HasPrefix(x, "By="+worker+";Hash=") || !strings.HasSuffix(x, "URI="+web) {
		t.Errorf("x-forwarded-client-cert: %s", x)
	}
	if len(resp.Header.Get("x-got-id")) != 36 {
		t.Errorf("x-request-id: %q", resp.Header.Get("x-got-id"))
	}
	if resp.Header.Get("x-got-peer") != "" {
		t.Error("the introduction between sidecars reached the application")
	}
	line := m.logA.wait(t, "via_upstream")
	for _, want := range []string{`"GET /jobs?x=1 HTTP/1.1" 200 - via_upstream - "-" 0 13`, " worker 127.0.0.1:", " default\n"} {
		if !strings.Contains(line, want) {
			t.Errorf("access log lacks %q:\n%s", want, line)
		}
	}
	m.logB.wait(t, "via_upstream")
	if v := metric(m.b, "istio_requests_total{", `reporter="destination"`, `source_workload="web"`, `source_principal="`+web, `connection_security_policy="mutual_tls"`); v != "1" {
		t.Errorf("destination's istio_requests_total: %q", v)
	}
	if v := metric(m.a, "istio_requests_total{", `reporter="source"`, `destination_workload="worker"`, `response_code="200"`); v != "1" {
		t.Errorf("source's istio_requests_total: %q", v)
	}
}

func TestBodies(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Query().Has("chunked") {
			w.(http.Flusher).Flush()
		}
		w.Write(b)
	}), nil)
	for _, size := range []int{0, 1, 1000, 20_000, 65_536, 65_537, 1 << 20} {
		for _, chunkedUp := range []bool{false, true} {
			for _, chunkedDown := range []string{"/", "/?chunked"} {
				payload := bytes.Repeat([]byte("tulle."), size/6+1)[:size]
				var body io.Reader = bytes.NewReader(payload)
				if chunkedUp {
					body = io.MultiReader(body) // hides the length
				}
				req, _ := http.NewRequest("POST", m.url+chunkedDown, body)
				resp, got := m.do(req)
				if resp.StatusCode != 200 || got != string(payload) {
					t.Errorf("size %d chunked up %v down %s: %s, %d bytes back", size, chunkedUp, chunkedDown, resp.Status, len(got))
				}
			}
		}
	}
}

func TestLocalAnswers(t *testing.T) {
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		routes := &m.snapA.Routes[0].VirtualHosts[0].Routes
		prefix := func(p string) ir.RouteMatch { return ir.RouteMatch{Path: &ir.Match{Kind: ir.Prefix, Value: p}} }
		to := func(c string) *ir.Forward { return &ir.Forward{Clusters: []ir.WeightedCluster{{Name: c}}} }
		*routes = []*ir.Route{
			{Match: prefix("/gone"), Forward: to("missing")},
			{Match: prefix("/empty"), Forward: to("empty")},
			{Match: prefix("/dead"), Forward: to("dead")},
			{Match: prefix("/direct"), Direct: &ir.DirectResponse{Status: 418, Body: "tea"}},
			{Match: prefix("/old"), Redirect: &ir.Redirect{Prefix: "/new", Code: 302}},
		}
		m.snapA.Clusters = append(m.snapA.Clusters,
			&ir.Cluster{Name: "empty", Type: ir.EDS, Breaker: ir.DefaultBreaker()},
			&ir.Cluster{Name: "dead", Type: ir.Static, Breaker: ir.DefaultBreaker(), Endpoints: &ir.EndpointSet{Cluster: "dead", Endpoints: []ir.Endpoint{{Address: deadAddr(t)}}}})
	})
	http.DefaultClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer func() { http.DefaultClient.CheckRedirect = nil }()
	for path, want := range map[string]struct {
		status int
		body   string
		log    string
	}{
		"/gone":    {503, "", "503 NC cluster_not_found"},
		"/empty":   {503, "no healthy upstream", "503 UH no_healthy_upstream"},
		"/dead":    {503, "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure", "503 UF"},
		"/direct":  {418, "tea", "418 - direct_response"},
		"/old/x":   {302, "", "302 -"},
		"/nowhere": {404, "", "404 NR route_not_found"},
	} {
		resp, body := m.get(path)
		if resp.StatusCode != want.status || body != want.body {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
		m.logA.wait(t, want.log)
		if path == "/old/x" && !strings.HasSuffix(resp.Header.Get("Location"), "/new/x") {
			t.Errorf("location %s", resp.Header.Get("Location"))
		}
	}
}

// deadAddr is an address nobody listens on.
func deadAddr(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestRetries(t *testing.T) {
	var calls atomic.Int32
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if calls.Add(1) < 3 {
			w.WriteHeader(503)
			return
		}
		fmt.Fprintf(w, "try %s got %s", r.Header.Get("x-envoy-attempt-count"), b)
	}), func(m *mesh) {
		m.snapA.Routes[0].VirtualHosts[0].Routes[0].Forward.Retry = &ir.RetryPolicy{Attempts: 3, On: []string{"5xx"}, Backoff: ir.Duration(time.Millisecond)}
	})
	req, _ := http.NewRequest("POST", m.url, strings.NewReader("job"))
	resp, body := m.do(req)
	if resp.StatusCode != 200 || body != "try 3 got job" {
		t.Fatal(resp.Status, body)
	}
	if v := metric(m.a, "envoy_cluster_upstream_rq_retry{"); v != "2" {
		t.Errorf("retries counted: %s", v)
	}
	calls.Store(-100)
	if resp, _ := m.get("/"); resp.StatusCode != 503 {
		t.Error(resp.Status)
	}
	m.logA.wait(t, "503 URX via_upstream")
}

func TestTimeouts(t *testing.T) {
	release := make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}), func(m *mesh) {
		m.snapA.Routes[0].VirtualHosts[0].Routes[0].Forward.Timeout = ir.Duration(50 * time.Millisecond)
	})
	defer close(release)
	start := time.Now()
	resp, body := m.get("/")
	if resp.StatusCode != 504 || body != "upstream request timeout" || time.Since(start) < 50*time.Millisecond {
		t.Fatal(resp.Status, body, time.Since(start))
	}
	m.logA.wait(t, "504 UT response_timeout")
}

func TestCircuitBreaker(t *testing.T) {
	entered, release := make(chan struct{}, 8), make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-release
	}), func(m *mesh) {
		m.snapA.Clusters[0].Breaker.MaxConnections = 1
		m.snapA.Clusters[0].Breaker.MaxPendingRequests = 1
	})
	results := make(chan int, 2)
	ask := func() {
		resp, err := http.Get(m.url)
		if err != nil {
			results <- 0
			return
		}
		resp.Body.Close()
		results <- resp.StatusCode
	}
	go ask()
	<-entered
	go ask() // waits in the queue
	deadline := time.Now().Add(5 * time.Second)
	for metric(m.a, "envoy_cluster_upstream_rq_pending_active{") != "1" {
		if time.Now().After(deadline) {
			t.Fatal("the second request never waited")
		}
	}
	resp, body := m.get("/")
	if resp.StatusCode != 503 || resp.Header.Get("x-envoy-overloaded") != "true" || !strings.HasSuffix(body, "overflow") {
		t.Error(resp.Status, resp.Header, body)
	}
	m.logA.wait(t, "503 UO")
	close(release)
	for range 2 {
		if code := <-results; code != 200 {
			t.Error("a request within the limits got", code)
		}
	}
}

func TestOutlierEjection(t *testing.T) {
	bad := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }), nil)
	good := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}), func(m *mesh) {
		m.snapA.Clusters[0].Outlier = &ir.Outlier{Consecutive5xx: 2, Interval: ir.Duration(time.Second), BaseEjection: ir.Duration(time.Hour), MaxEjectionPercent: 50}
		m.snapA.Clusters[0].AutoTLS = nil
		m.snapA.Clusters[0].LB = ir.RoundRobin
	})
	good.snapA.Endpoints = []*ir.EndpointSet{{Cluster: "worker", Endpoints: []ir.Endpoint{{Address: good.app.Listener.Addr().String()}, {Address: bad.app.Listener.Addr().String()}}}}
	good.apply(good.a, good.snapA)
	failures := 0
	for range 20 {
		if resp, _ := good.get("/"); resp.StatusCode != 200 {
			failures++
		}
	}
	if failures != 2 {
		t.Errorf("%d failures; two in a row should have ejected the host", failures)
	}
	if v := metric(good.a, "envoy_cluster_outlier_detection_ejections_active{"); v != "1" {
		t.Errorf("ejections_active %s", v)
	}
}

func TestStrictRefusesPlaintext(t *testing.T) {
	m := newMesh(t, http.NotFoundHandler(), nil)
	c, err := net.Dial("tcp", m.b.Addr(netip.MustParseAddrPort(listenAddr)).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("want a reset, got %v", err)
	}
}

func TestAuthorization(t *testing.T) {
	principal := func(p string) *ir.Expr {
		return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPrincipal, Value: ir.Match{Kind: ir.Exact, Value: p}}
	}
	path := func(p string) *ir.Expr {
		return &ir.Expr{Op: ir.Leaf, Attr: ir.AttrPath, Value: ir.Match{Kind: ir.Prefix, Value: p}}
	}
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}), func(m *mesh) {
		m.snapB.Listeners[0].Chains[0].Filters = []ir.Filter{
			{RBAC: &ir.RBAC{Action: ir.Deny, Policies: []ir.Policy{{Name: "ns[shop]-policy[no-admin]-rule[0]", Permission: path("/admin")}}}},
			{RBAC: &ir.RBAC{Action: ir.Allow, Policies: []ir.Policy{{Name: "ns[shop]-policy[web]-rule[0]", Permission: path("/api"), Principal: principal(web)}}}},
		}
	})
	for p, want := range map[string]struct {
		status int
		log    string
	}{
		"/api/x":         {200, "200 - via_upstream"},
		"/admin":         {403, "403 - rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]"},
		"/other":         {403, "403 - rbac_access_denied_matched_policy[none]"},
		"/api/../admin":  {403, "rule[0]]"},
		"/api/%2e./admi": {403, "[none]"},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n", p)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		conn.Close()
		if resp.StatusCode != want.status || want.status == 403 && string(b) != "RBAC: access denied" {
			t.Errorf("%s: %s %q", p, resp.Status, b)
		}
		m.logB.wait(t, want.log)
	}
}

func TestUpgrade(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
		rw.Flush()
		io.Copy(conn, rw)
	}), nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: collab\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatal(resp, err)
	}
	fmt.Fprint(conn, "bye")
	conn.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(br)
	if err != nil || string(b) != "hello early bye" {
		t.Errorf("%q %v", b, err)
	}
	m.logA.wait(t, " 101 ")
}

func TestApplyUnderLoadLosesNothing(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }), nil)
	stop, failed := make(chan struct{}), make(chan string, 4)
	for range 4 {
		go func() {
			for {
				select {
				case <-stop:
					failed <- ""
					return
				default:
				}
				resp, err := http.Get(m.url)
				if err != nil {
					failed <- err.Error()
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 {
					failed <- resp.Status
					return
				}
			}
		}()
	}
	for i := range 50 {
		next := *m.snapA
		routes := *m.snapA.Routes[0]
		routes.VirtualHosts = []*ir.VirtualHost{{Name: fmt.Sprint("v", i), Domains: []string{"*"}, Routes: m.snapA.Routes[0].VirtualHosts[0].Routes}}
		next.Routes = []*ir.RouteTable{&routes}
		m.apply(m.a, &next)
	}
	close(stop)
	for range 4 {
		if f := <-failed; f != "" {
			t.Error(f)
		}
	}
}

func TestBadSnapshotKeepsTheOld(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}), nil)
	before := m.a.Version()
	bad := *m.snapA
	bad.Routes = []*ir.RouteTable{{Name: "8000", VirtualHosts: []*ir.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{Match: ir.RouteMatch{Path: &ir.Match{Kind: ir.Regex, Value: "("}}, Direct: &ir.DirectResponse{Status: 200}}}}}}}
	if err := m.a.Apply(bad.Seal()); err == nil || !strings.Contains(err.Error(), "virtual host v") {
		t.Errorf("error %v", err)
	}
	if m.a.Version() != before {
		t.Error("a refused snapshot is in force")
	}
	if resp, _ := m.get("/"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

// Each part of a stream reaches the caller before the next one is made.
func TestStreamsAsItComes(t *testing.T) {
	next := make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		for i := range 3 {
			fmt.Fprintf(w, "part %d\n", i)
			_ = rc.Flush()
			<-next
		}
	}), nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", m.url+"/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if want := fmt.Sprintf("part %d\n", i); line != want || err != nil {
			t.Fatalf("got %q, %v; want %q", line, err, want)
		}
		next <- struct{}{}
	}
}
