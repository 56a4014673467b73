package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// route is the one that all requests take at the caller's proxy.
func (m *mesh) route() *ir.Route { return m.snapA.Routes[0].VirtualHosts[0].Routes[0] }

func sendHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		if name == "host" {
			r.Host = value
			return
		}
		r.Header.Set(name, value)
	}
}

func method(name string) func(*http.Request) { return func(r *http.Request) { r.Method = name } }

func grpcCall(r *http.Request) {
	r.Method = "POST"
	r.Header.Set("content-type", "application/grpc")
}

// noRedirects is a client that shows redirects instead of following them.
func noRedirects(t *testing.T) {
	http.DefaultClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() { http.DefaultClient.CheckRedirect = nil })
}

func TestFaultAbort(t *testing.T) {
	var reached atomic.Int32
	for name, tc := range map[string]struct {
		abort      ir.FaultAbort
		edit       func(*http.Request)
		status     int
		grpc, body string
	}{
		"http":                {ir.FaultAbort{Status: 418, Share: ir.All}, nil, 418, "", "fault filter abort"},
		"http for gRPC":       {ir.FaultAbort{Status: 503, Share: ir.All}, grpcCall, 200, "14", ""},
		"gRPC for gRPC":       {ir.FaultAbort{GRPC: 5, Share: ir.All}, grpcCall, 200, "5", ""},
		"gRPC OK for gRPC":    {ir.FaultAbort{GRPC: 0, Share: ir.All}, grpcCall, 200, "0", ""},
		"gRPC for HTTP":       {ir.FaultAbort{GRPC: 14, Share: ir.All}, nil, 503, "", "fault filter abort"},
		"a share of nothing":  {ir.FaultAbort{Status: 418, Share: 0}, nil, 200, "", "app"},
		"even before a retry": {ir.FaultAbort{Status: 503, Share: ir.All}, nil, 503, "", "fault filter abort"},
	} {
		t.Run(name, func(t *testing.T) {
			reached.Store(0)
			m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reached.Add(1)
				io.WriteString(w, "app")
			}), func(m *mesh) {
				m.route().Fault = &ir.Fault{Abort: &tc.abort}
				m.route().Forward.Retry = &ir.RetryPolicy{Attempts: 3, On: []string{"5xx"}}
			})
			var edits []func(*http.Request)
			if tc.edit != nil {
				edits = append(edits, tc.edit)
			}
			resp, body := m.get("/", edits...)
			if resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("grpc-status") != tc.grpc {
				t.Errorf("%s %q grpc-status %q", resp.Status, body, resp.Header.Get("grpc-status"))
			}
			if tc.body == "app" {
				if reached.Load() != 1 {
					t.Error("the application was not asked")
				}
				return
			}
			if reached.Load() != 0 {
				t.Error("an aborted request reached the application")
			}
			m.logA.wait(t, "FI fault_filter_abort")
			if v := metric(m.a, "envoy_http_fault_aborts_injected"); v != "1" {
				t.Errorf("aborts counted: %q", v)
			}
		})
	}
}

// A delay comes before the route's timeout begins, and is independent of the
// abort.
func TestFaultDelay(t *testing.T) {
	const delay = 60 * time.Millisecond
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "app") }), func(m *mesh) {
		m.route().Fault = &ir.Fault{Delay: &ir.FaultDelay{Fixed: ir.Duration(delay), Share: ir.All}}
		m.route().Forward.Timeout = ir.Duration(2 * time.Second)
	})
	start := time.Now()
	if resp, body := m.get("/"); resp.StatusCode != 200 || body != "app" {
		t.Fatal(resp.Status, body)
	}
	if d := time.Since(start); d < delay {
		t.Errorf("answered after %s", d)
	}
	m.logA.wait(t, "200 DI via_upstream")

	m.route().Forward.Timeout = ir.Duration(delay / 2) // would be over before the delay is
	m.route().Fault = &ir.Fault{Delay: m.route().Fault.Delay, Abort: &ir.FaultAbort{Status: 500, Share: ir.All}}
	m.apply(m.a, m.snapA)
	if resp, body := m.get("/"); resp.StatusCode != 500 || body != "fault filter abort" {
		t.Fatal(resp.Status, body)
	}
	m.logA.wait(t, "500 DI,FI fault_filter_abort")
	if v := metric(m.a, "envoy_http_fault_delays_injected"); v != "2" {
		t.Errorf("delays counted: %q", v)
	}
}

// shadowed is a request that a mirror got.
type shadowed struct{ host, path, body, extra string }

func TestMirror(t *testing.T) {
	got := make(chan shadowed, 8)
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Host, r.URL, len(b))
	}), func(m *mesh) {
		mirrored := newMirrorTarget(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got <- shadowed{r.Host, r.URL.String(), string(b), r.Header.Get("x-extra")}
			w.WriteHeader(500) // nobody cares
		})
		m.snapA.Clusters = append(m.snapA.Clusters, mirrored)
		r := m.route()
		r.Match.Path = &ir.Match{Kind: ir.Prefix, Value: "/old"}
		r.Request.Set = []ir.Header{{Name: "x-extra", Value: "yes"}}
		r.Forward.PrefixRewrite = "/new"
		r.Forward.Mirrors = []ir.Mirror{{Cluster: "mirror", Share: ir.All, ShadowHost: true}, {Cluster: "mirror", Share: 0}, {Cluster: "gone", Share: ir.All}}
	})
	big := strings.Repeat("x", 200<<10)
	for _, tc := range []struct{ name, host, body, shadow string }{
		{"no body", "worker:8000", "", "worker-shadow:8000"},
		{"small body", "worker", "job", "worker-shadow"},
		{"streamed body", "10.0.0.1:80", big, "10.0.0.1-shadow:80"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, _ := http.NewRequest("POST", m.url+"/old/a?b=c", strings.NewReader(tc.body))
			req.Host = tc.host
			resp, body := m.do(req)
			if want := fmt.Sprintf("%s /new/a?b=c %d", tc.host, len(tc.body)); resp.StatusCode != 200 || body != want {
				t.Errorf("%s %q, want %q", resp.Status, body, want)
			}
			if s := <-got; s != (shadowed{tc.shadow, "/new/a?b=c", tc.body, "yes"}) {
				s.body = fmt.Sprint(len(s.body))
				t.Errorf("mirror got %+v", s)
			}
		})
	}
	m.route().Forward.Mirrors[0].ShadowHost = false
	m.apply(m.a, m.snapA)
	m.get("/old", sendHeader("host", "worker"))
	if s := <-got; s.host != "worker" {
		t.Errorf("a copy that keeps its host has %s", s.host)
	}
	if v := metric(m.a, "tulle_mirror_requests_total"); v != "4" {
		t.Errorf("mirrored: %s", v)
	}
}

// A mirror that answers nobody does not hold up the request, and a copy larger
// than its window is given up.
func TestMirrorNeverDelays(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 8)
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}), func(m *mesh) {
		m.snapA.Clusters = append(m.snapA.Clusters, newMirrorTarget(t, func(w http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			<-release // reads nothing of the body
		}))
		m.route().Forward.Mirrors = []ir.Mirror{{Cluster: "mirror", Share: ir.All}}
	})
	t.Cleanup(func() { close(release) })
	const size = 64 << 20 // far more than sockets and the window hold
	req, _ := http.NewRequest("POST", m.url, io.LimitReader(zeros{}, size))
	if resp, body := m.do(req); resp.StatusCode != 200 || body != fmt.Sprint(size) {
		t.Fatal(resp.Status, body)
	}
	if v := metric(m.a, "tulle_mirror_requests_dropped_total"); v != "1" {
		t.Errorf("dropped: %s", v)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestCORS(t *testing.T) {
	policy := ir.CORS{Origins: []ir.Match{{Kind: ir.Exact, Value: "https://a.example"}, {Kind: ir.Regex, Value: `https://.*\.b\.example`}},
		Methods: "GET,PUT", Headers: "x-job", Expose: "x-total", MaxAge: "600", AllowCredentials: true}
	ask := sendHeader("access-control-request-method", "PUT")
	for name, tc := range map[string]struct {
		ignore bool
		edits  []func(*http.Request)
		body   string // "app" where the application answers
		want   map[string]string
	}{
		"preflight": {false, []func(*http.Request){method("OPTIONS"), sendHeader("origin", "https://a.example"), ask}, "", map[string]string{
			"access-control-allow-origin": "https://a.example", "access-control-allow-methods": "GET,PUT", "access-control-allow-headers": "x-job",
			"access-control-max-age": "600", "access-control-allow-credentials": "true"}},
		"preflight of another origin goes on":     {false, []func(*http.Request){method("OPTIONS"), sendHeader("origin", "https://evil.example"), ask}, "app", nil},
		"preflight of another origin is answered": {true, []func(*http.Request){method("OPTIONS"), sendHeader("origin", "https://evil.example"), ask}, "", nil},
		"OPTIONS without asking is no preflight":  {false, []func(*http.Request){method("OPTIONS"), sendHeader("origin", "https://a.example")}, "app", map[string]string{"access-control-allow-origin": "https://a.example", "access-control-expose-headers": "x-total", "access-control-allow-credentials": "true"}},
		"response":                                {false, []func(*http.Request){sendHeader("origin", "https://x.b.example")}, "app", map[string]string{"access-control-allow-origin": "https://x.b.example", "access-control-expose-headers": "x-total", "access-control-allow-credentials": "true"}},
		"response to another origin":              {false, []func(*http.Request){sendHeader("origin", "https://b.example.evil")}, "app", nil},
		"no origin":                               {false, nil, "app", nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "app") }), func(m *mesh) {
				c := policy
				c.IgnoreUnmatched = tc.ignore
				m.route().CORS = &c
			})
			resp, body := m.get("/", tc.edits...)
			if resp.StatusCode != 200 || body != tc.body {
				t.Errorf("%s %q", resp.Status, body)
			}
			for _, h := range []string{"origin", "methods", "headers", "credentials"} {
				h = "access-control-allow-" + h
				if got := resp.Header.Get(h); got != tc.want[h] {
					t.Errorf("%s: %q, want %q", h, got, tc.want[h])
				}
			}
			for _, h := range []string{"access-control-max-age", "access-control-expose-headers"} {
				if got := resp.Header.Get(h); got != tc.want[h] {
					t.Errorf("%s: %q, want %q", h, got, tc.want[h])
				}
			}
			if tc.body == "" {
				m.logA.wait(t, "cors_response")
			}
		})
	}
}

func TestRedirects(t *testing.T) {
	noRedirects(t)
	for name, tc := range map[string]struct {
		r          ir.Redirect
		host, path string
		want       string
	}{
		"path":                         {ir.Redirect{Path: "/new"}, "shop.example", "/old?x=1", "http://shop.example/new?x=1"},
		"path with its own query":      {ir.Redirect{Path: "/new?y=2"}, "shop.example", "/old?x=1", "http://shop.example/new?y=2"},
		"prefix":                       {ir.Redirect{Prefix: "/new"}, "shop.example:8000", "/old/x?x=1", "http://shop.example:8000/new/x?x=1"},
		"host":                         {ir.Redirect{Host: "other.example"}, "shop.example:8000", "/old", "http://other.example/old"},
		"scheme drops its usual port":  {ir.Redirect{Scheme: "https"}, "shop.example:80", "/old", "https://shop.example/old"},
		"scheme keeps an unusual port": {ir.Redirect{Scheme: "https"}, "shop.example:8000", "/old", "https://shop.example:8000/old"},
		"port replaces the request's":  {ir.Redirect{Port: 9000}, "shop.example:8000", "/old", "http://shop.example:9000/old"},
		"port of an IPv6 host":         {ir.Redirect{Port: 9000}, "[::1]:8000", "/old", "http://[::1]:9000/old"},
		"all":                          {ir.Redirect{Scheme: "https", Host: "a.example", Port: 8443, Path: "/n", Code: 308}, "shop.example", "/old", "https://a.example:8443/n"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
				r := m.route()
				r.Match.Path = &ir.Match{Kind: ir.Prefix, Value: "/old"}
				r.Forward, r.Redirect = nil, &tc.r
				r.Response.Add = []ir.Header{{Name: "x-why", Value: "moved"}}
			})
			resp, _ := m.get(tc.path, sendHeader("host", tc.host))
			code := tc.r.Code
			if code == 0 {
				code = 301
			}
			if resp.StatusCode != code || resp.Header.Get("location") != tc.want || resp.Header.Get("x-why") != "moved" {
				t.Errorf("%d %s, want %s", resp.StatusCode, resp.Header.Get("location"), tc.want)
			}
		})
	}
}

func TestHeaderOperations(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-secret", "s")
		for _, n := range []string{"x-a", "x-both", "x-id", "x-percent", "x-none", "x-forwarded-host"} {
			if v, ok := r.Header[http.CanonicalHeaderKey(n)]; ok {
				w.Header().Set("got-"+n, strings.Join(v, "|"))
			}
		}
		fmt.Fprint(w, r.Host)
	}), func(m *mesh) {
		r := m.route()
		r.Request = ir.HeaderOps{Set: []ir.Header{{Name: "x-both", Value: "route"}, {Name: "x-id", Value: "%REQ(x-from)%-%ROUTE_NAME%"}},
			Add: []ir.Header{{Name: "x-a", Value: "2"}, {Name: "x-percent", Value: "50%%"}, {Name: "x-none", Value: "%REQ(x-nothing)%"}}}
		r.Response = ir.HeaderOps{Remove: []string{"x-secret"}, Set: []ir.Header{{Name: "x-code", Value: "%RESPONSE_CODE%"}}}
		r.Forward.AppendForwardedHost = true
		r.Forward.Clusters[0].HostRewrite = "other.example"
		r.Forward.Clusters[0].Request = ir.HeaderOps{Set: []ir.Header{{Name: "x-both", Value: "destination"}}}
	})
	resp, body := m.get("/", sendHeader("x-a", "1"), sendHeader("x-from", "me"), sendHeader("host", "first.example:80"))
	if body != "other.example" {
		t.Errorf("host %s", body)
	}
	for name, want := range map[string]string{"got-x-a": "1|2", "got-x-both": "route", "got-x-id": "me-default", "got-x-percent": "50%", "got-x-none": "",
		"got-x-forwarded-host": "first.example:80", "x-secret": "", "x-code": "200"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestDirectResponseBytes(t *testing.T) {
	raw := "\xff\xfe\x00bytes"
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		r := m.route()
		r.Forward, r.Direct = nil, &ir.DirectResponse{Status: 200, Bytes: []byte(raw)}
		r.Response.Set = []ir.Header{{Name: "content-type", Value: "application/octet-stream"}}
	})
	resp, body := m.get("/")
	if body != raw || resp.Header.Get("content-type") != "application/octet-stream" {
		t.Errorf("%q %s", body, resp.Header.Get("content-type"))
	}
}

// Every try is told to the log, with where it went and how it ended.
func TestTriesAreRecorded(t *testing.T) {
	var calls atomic.Int32
	dead := deadAddr(t)
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(503)
		}
	}), func(m *mesh) {
		m.debug = newLines()
		m.route().Forward.Retry = &ir.RetryPolicy{Attempts: 4, On: []string{"5xx"}, Backoff: ir.Duration(time.Millisecond), PreviousHosts: false}
	})
	if resp, _ := m.get("/"); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	alive := m.b.Addr(netip.MustParseAddrPort(listenAddr)).String()
	m.debug.wait(t, "n=1 host="+alive+" status=503 flags=-")
	m.debug.wait(t, "n=2 host="+alive+" status=200 flags=-")

	m.snapA.Endpoints = []*ir.EndpointSet{{Cluster: "worker", Endpoints: []ir.Endpoint{{Address: dead}}}}
	m.apply(m.a, m.snapA)
	if resp, _ := m.get("/"); resp.StatusCode != 503 {
		t.Fatal(resp.Status)
	}
	m.debug.wait(t, "n=4 host="+dead+" status=0 flags=UF")
	m.debug.wait(t, "n=5 host="+dead+" status=503 flags=UF,URX")
}

func TestRetryConditions(t *testing.T) {
	for _, tc := range []struct {
		on      string
		codes   []int
		status  int
		headers map[string]string
		retried bool
	}{
		{on: "5xx", status: 500, retried: true},
		{on: "5xx", status: 404},
		{on: "gateway-error", status: 502, retried: true},
		{on: "gateway-error", status: 500},
		{on: "retriable-4xx", status: 409, retried: true},
		{on: "retriable-4xx", status: 404},
		{on: "retriable-status-codes", codes: []int{418}, status: 418, retried: true},
		{on: "retriable-status-codes", status: 503}, // the default list is empty since 1.24
		{on: "connect-failure", status: 503},
		{on: "envoy-ratelimited", status: 429, headers: map[string]string{"x-envoy-ratelimited": "true"}, retried: true},
		{on: "envoy-ratelimited", status: 429},
		{on: "retriable-status-codes", codes: []int{429}, status: 429, headers: map[string]string{"x-envoy-ratelimited": "true"}},
		{on: "unavailable", status: 200, headers: map[string]string{"grpc-status": "14"}, retried: true},
		{on: "unavailable", status: 200, headers: map[string]string{"grpc-status": "13"}},
		{on: "cancelled", status: 200, headers: map[string]string{"grpc-status": "1"}, retried: true},
		{on: "deadline-exceeded", status: 200, headers: map[string]string{"grpc-status": "4"}, retried: true},
		{on: "internal", status: 200, headers: map[string]string{"grpc-status": "13"}, retried: true},
		{on: "resource-exhausted", status: 200, headers: map[string]string{"grpc-status": "8"}, retried: true},
	} {
		t.Run(fmt.Sprintf("%s %d %v", tc.on, tc.status, tc.headers), func(t *testing.T) {
			var calls atomic.Int32
			m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) == 1 {
					for k, v := range tc.headers {
						w.Header().Set(k, v)
					}
					w.WriteHeader(tc.status)
				}
			}), func(m *mesh) {
				m.route().Forward.Retry = &ir.RetryPolicy{Attempts: 1, On: []string{tc.on}, Codes: tc.codes, Backoff: ir.Duration(time.Millisecond)}
			})
			m.get("/")
			if retried := calls.Load() == 2; retried != tc.retried {
				t.Errorf("%d calls", calls.Load())
			}
		})
	}
}

// A code in retryOn means a response of the upstream, not an answer of our own
// that happens to have it (VS45).
func TestCodesAreTheUpstreams(t *testing.T) {
	for on, attempts := range map[string]string{"retriable-status-codes": "1", "5xx": "3"} {
		m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
			m.snapA.Listeners[0].Chains[0].HTTP.AccessLog.Format = "attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_CODE%"
			m.snapA.Endpoints = []*ir.EndpointSet{{Cluster: "worker", Endpoints: []ir.Endpoint{{Address: deadAddr(t)}}}}
			m.route().Forward.Retry = &ir.RetryPolicy{Attempts: 2, On: []string{on}, Codes: []int{503}, Backoff: ir.Duration(time.Millisecond)}
		})
		m.get("/")
		m.logA.wait(t, "attempts="+attempts+" 503")
	}
}

func newMirrorTarget(t *testing.T, h http.HandlerFunc) *ir.Cluster {
	s := newServer(t, h)
	return &ir.Cluster{Name: "mirror", Type: ir.Static, Breaker: ir.DefaultBreaker(),
		Endpoints: &ir.EndpointSet{Cluster: "mirror", Endpoints: []ir.Endpoint{{Address: s}}}}
}
