package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// asks makes every request at the callee's proxy a question to f.
func (m *mesh) asks(filters ...*ir.ExtAuthz) {
	for _, f := range filters {
		f.Policies = []ir.Policy{{Name: "ns[shop]-policy[ask]-rule[0]"}}
		c := m.snapB.Listeners[0].Chains[0]
		c.Filters = append(c.Filters, ir.Filter{ExtAuthz: f})
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	for name, values := range r.Header {
		if strings.HasPrefix(name, "X-") {
			w.Header()["Saw-"+name] = values
		}
	}
	w.Header().Set("x-app", "app")
	fmt.Fprintf(w, "%s %d", r.RequestURI, len(b))
}

// An HTTP authorizer gets what the provider says and no more, and its answer
// does what the provider says and no more.
func TestHTTPAuthorizer(t *testing.T) {
	type asked struct {
		method, uri, host, body string
		header                  http.Header
	}
	got := make(chan asked, 1)
	var answer func(w http.ResponseWriter, r *http.Request)
	server := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- asked{r.Method, r.RequestURI, r.Host, string(b), r.Header.Clone()}
		answer(w, r)
	}))
	f := &ir.ExtAuthz{Provider: "http", Cluster: "judge", Timeout: ir.Duration(time.Second), MaxRequestBytes: 4, StatusOnError: 503, HTTP: &ir.ExtAuthzHTTP{
		PathPrefix:        "/check",
		RequestHeaders:    []ir.Match{{Kind: ir.Exact, Value: "cookie"}, {Kind: ir.Prefix, Value: "x-tenant-"}, {Kind: ir.Suffix, Value: "-token"}},
		AddHeaders:        []ir.Header{{Name: "x-from", Value: "mesh"}},
		UpstreamOnAllow:   []ir.Match{{Kind: ir.Exact, Value: "x-user"}},
		DownstreamOnDeny:  []ir.Match{{Kind: ir.Exact, Value: "set-cookie"}},
		DownstreamOnAllow: []ir.Match{{Kind: ir.Prefix, Value: "x-quota"}},
	}}
	m := newMesh(t, http.HandlerFunc(echo), func(m *mesh) {
		m.snapB.Clusters = append(m.snapB.Clusters, static("judge", server))
		m.asks(f)
	})
	request := func(method, body string) *http.Request {
		r, _ := http.NewRequest(method, m.url+"/jobs?x=1", strings.NewReader(body))
		r.Host = "worker:8000"
		for name, v := range map[string]string{"Cookie": "a=b", "Authorization": "Bearer t", "X-Tenant-Id": "7", "X-Api-Token": "k", "X-Other": "no", "X-From": "me"} {
			r.Header.Set(name, v)
		}
		return r
	}
	answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-User", "vera")
		w.Header().Set("X-Quota-Left", "3")
		w.Header().Set("X-Secret", "s")
		w.Header().Set("X-Envoy-Auth-Headers-To-Remove", "X-Other, cookie")
	}
	resp, body := m.do(request("POST", "job"))
	q := <-got
	if q.method != "POST" || q.uri != "/check/jobs?x=1" || q.host != "worker:8000" || q.body != "job" {
		t.Errorf("asked %s %s of %s with %q", q.method, q.uri, q.host, q.body)
	}
	for name, want := range map[string]string{"Cookie": "a=b", "Authorization": "Bearer t", "X-Tenant-Id": "7", "X-Api-Token": "k", "X-From": "mesh", "X-Other": "", "Content-Length": "3", "X-Envoy-Auth-Partial-Body": "false", "X-Forwarded-Client-Cert": ""} {
		if v := q.header.Get(name); v != want {
			t.Errorf("the authorizer got %s: %q, want %q", name, v, want)
		}
	}
	if resp.StatusCode != 200 || body != "/jobs?x=1 3" {
		t.Errorf("answer %s %q", resp.Status, body)
	}
	for name, want := range map[string]string{"Saw-X-User": "vera", "Saw-X-Other": "", "Saw-X-Secret": "", "X-Quota-Left": "3", "X-Secret": "", "X-App": "app"} {
		if v := resp.Header.Get(name); v != want {
			t.Errorf("response has %s: %q, want %q", name, v, want)
		}
	}

	answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Set-Cookie", "a")
		w.Header().Add("Set-Cookie", "b")
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.Header().Set("X-Secret", "s")
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(401)
		io.WriteString(w, "who are you?")
	}
	resp, body = m.do(request("GET", ""))
	if q := <-got; q.header.Get("Content-Length") != "" && q.header.Get("Content-Length") != "0" || q.body != "" {
		t.Errorf("a GET was asked about with %v", q)
	}
	if resp.StatusCode != 401 || body != "who are you?" || !slices.Equal(resp.Header["Set-Cookie"], []string{"a", "b"}) || resp.Header.Get("WWW-Authenticate") != "Bearer" || resp.Header.Get("X-Secret") != "" {
		t.Errorf("answer %s %q %v", resp.Status, body, resp.Header)
	}
	m.logB.wait(t, "401 UAEX ext_authz_denied")

	answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }
	if resp, _ := m.do(request("GET", "")); resp.StatusCode != 503 { // statusOnError
		t.Errorf("an authorizer that fails: %s", resp.Status)
	}
	<-got
	m.logB.wait(t, "503 UAEX ext_authz_error")

	if resp, _ := m.do(request("POST", "12345")); resp.StatusCode != 413 {
		t.Errorf("a body that is too large: %s", resp.Status)
	}
	m.logB.wait(t, "413 - request_payload_too_large")
	f.AllowPartial, f.FailOpen = true, true
	m.apply(m.b, m.snapB)
	if resp, body := m.do(request("POST", "12345")); resp.StatusCode != 200 || body != "/jobs?x=1 5" { // fails open
		t.Errorf("%s %q", resp.Status, body)
	}
	if q := <-got; q.body != "1234" || q.header.Get("X-Envoy-Auth-Partial-Body") != "true" {
		t.Errorf("asked with %q %v", q.body, q.header)
	}
}

type judge func(r *authz.External) authz.Verdict

func (j judge) Check(_ context.Context, r *authz.External) authz.Verdict { return j(r) }

// What an authorizer that allows changes is seen by the policies behind it, by
// the application, by the caller, and by routing only with clearRouteCache.
func TestVerdictChanges(t *testing.T) {
	var mu sync.Mutex
	verdicts := map[string]authz.Verdict{}
	var saw []string
	f, second := &ir.ExtAuthz{Provider: "a", MaxRequestBytes: 16}, &ir.ExtAuthz{Provider: "b", MaxRequestBytes: 16}
	m := newMesh(t, http.HandlerFunc(echo), func(m *mesh) {
		m.asks(f, second)
		c := m.snapB.Listeners[0].Chains[0]
		c.Filters = append(c.Filters, ir.Filter{RBAC: &ir.RBAC{Action: ir.Deny, Policies: []ir.Policy{{Name: "late", Permission: &ir.Expr{Op: ir.Leaf, Attr: ir.AttrHeader, Key: "x-banned", Value: ir.Match{Kind: ir.Present}}},
			{Name: "late query", Permission: &ir.Expr{Op: ir.Leaf, Attr: ir.AttrHeader, Key: ":path", Value: ir.Match{Kind: ir.Prefix, Value: "/q?a=banned"}}}}}})
		vh := m.snapB.Routes[0].VirtualHosts[0]
		vh.Routes = append([]*ir.Route{{Name: "special", Match: ir.RouteMatch{Headers: []ir.HeaderMatch{{Name: "x-special", Value: ir.Match{Kind: ir.Present}}}},
			Direct: &ir.DirectResponse{Status: 299, Body: "special"}}}, vh.Routes...)
		m.options = func(o *Options) {
			o.Authorizer = func(f *ir.ExtAuthz, _ func(context.Context) (net.Conn, error)) (authz.Provider, error) {
				return judge(func(r *authz.External) authz.Verdict {
					user := ""
					r.Headers(func(name, value string) bool {
						if name == "x-user" {
							user = value
						}
						return true
					})
					mu.Lock()
					defer mu.Unlock()
					saw = append(saw, f.Provider+" "+user+" "+string(r.Body))
					return verdicts[f.Provider]
				}), nil
			}
		}
	})
	set := func(name, value string) []ir.Header { return []ir.Header{{Name: name, Value: value}} }
	for _, tc := range []struct {
		name         string
		a            authz.Verdict
		clear        bool
		status       int
		body         string // "" is the application's
		header, want string
	}{
		{name: "set", a: authz.Verdict{Headers: set("x-user", "vera")}, header: "Saw-X-User", want: "vera"},
		{name: "append", a: authz.Verdict{AppendHeaders: append(set("x-user", "vera"), set("x-new", "no")...)}, header: "Saw-X-User", want: "me,vera"},
		{name: "append to nothing", a: authz.Verdict{AppendHeaders: set("x-new", "no")}, header: "Saw-X-New"},
		{name: "remove", a: authz.Verdict{RemoveHeaders: []string{"x-user"}}, header: "Saw-X-User"},
		{name: "query", a: authz.Verdict{SetQuery: append(set("b", "2"), set("c", "3")...), RemoveQuery: []string{"a"}}, body: "/q?b=2&d&c=3 3"},
		{name: "query of the same length", a: authz.Verdict{SetQuery: set("a", "9")}, body: "/q?a=9&b=1&d&b=9 3"},
		{name: "a later policy looks at the query", a: authz.Verdict{SetQuery: set("a", "banned")}, status: 403, body: "RBAC: access denied"},
		{name: "no query left", a: authz.Verdict{RemoveQuery: []string{"a", "b", "d"}}, body: "/q 3"},
		{name: "response add", a: authz.Verdict{ResponseHeaders: []authz.ResponseHeader{{Header: set("x-app", "z")[0]}}}, header: "X-App", want: "app,z"},
		{name: "response set", a: authz.Verdict{ResponseHeaders: []authz.ResponseHeader{{Header: set("x-app", "z")[0], Append: authz.Set}}}, header: "X-App", want: "z"},
		{name: "response if absent", a: authz.Verdict{ResponseHeaders: []authz.ResponseHeader{{Header: set("x-app", "z")[0], Append: authz.AddIfAbsent}}}, header: "X-App", want: "app"},
		{name: "response if present", a: authz.Verdict{ResponseHeaders: []authz.ResponseHeader{{Header: set("x-no", "z")[0], Append: authz.SetIfPresent}}}, header: "X-No"},
		{name: "a later policy looks", a: authz.Verdict{Headers: set("x-banned", "1")}, status: 403, body: "RBAC: access denied"},
		{name: "route as it came", a: authz.Verdict{Headers: set("x-special", "1")}, header: "Saw-X-Special", want: "1"},
		{name: "route again", a: authz.Verdict{Headers: set("x-special", "1")}, clear: true, status: 299, body: "special"},
		{name: "refused", a: authz.Verdict{Err: errors.New("down"), Status: 502}, status: 502},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.ClearRouteCache = tc.clear
			tc.a.Allow = tc.a.Err == nil
			mu.Lock()
			saw, verdicts["a"], verdicts["b"] = nil, tc.a, authz.Verdict{Allow: true}
			mu.Unlock()
			m.apply(m.b, m.snapB)
			req, _ := http.NewRequest("POST", m.url+"/q?a=0&b=1&d&b=9", strings.NewReader("job"))
			if tc.name == "no query left" {
				req.URL.RawQuery = "a=0&b=1&d"
			}
			req.Header.Set("x-user", "me")
			resp, body := m.do(req)
			want := tc.body
			if tc.status == 0 {
				tc.status = 200
				if want == "" {
					want = "/q?a=0&b=1&d&b=9 3"
				}
			}
			if resp.StatusCode != tc.status || body != want {
				t.Errorf("answer %s %q, want %d %q", resp.Status, body, tc.status, want)
			}
			if v := strings.Join(resp.Header.Values(tc.header), ","); tc.header != "" && v != tc.want {
				t.Errorf("%s: %q, want %q", tc.header, v, tc.want)
			}
			mu.Lock()
			defer mu.Unlock()
			user := "me"
			if len(tc.a.Headers) > 0 && tc.a.Headers[0].Name == "x-user" {
				user = "vera"
			}
			if tc.name == "set" && !slices.Equal(saw, []string{"a me job", "b " + user + " job"}) {
				t.Errorf("asked %q", saw)
			}
		})
	}
}

// An authorizer in this process sees the body in the form that the provider
// asks for (packAsBytes).
func TestBodyAsBytes(t *testing.T) {
	f := &ir.ExtAuthz{Provider: "a", MaxRequestBytes: 16, PackAsBytes: true}
	m := newMesh(t, http.HandlerFunc(echo), func(m *mesh) {
		m.asks(f)
		m.options = func(o *Options) {
			o.Authorizer = func(*ir.ExtAuthz, func(context.Context) (net.Conn, error)) (authz.Provider, error) {
				return judge(func(r *authz.External) authz.Verdict { return authz.Verdict{Allow: r.RawBody} }), nil
			}
		}
	})
	req, _ := http.NewRequest("POST", m.url+"/", strings.NewReader("job"))
	if resp, _ := m.do(req); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}
