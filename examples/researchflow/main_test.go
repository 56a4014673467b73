package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// background runs serve until the test ends and checks that it stops cleanly.
func background(t *testing.T, serve func(ctx context.Context, ln net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return ln.Addr().String()
}

func startRedis(t *testing.T) string {
	return background(t, func(ctx context.Context, ln net.Listener) error {
		return newRedisServer().serve(ctx, quiet(), ln)
	})
}

func startPostgres(t *testing.T) string {
	return background(t, func(ctx context.Context, ln net.Listener) error {
		return serveTCP(ctx, quiet(), ln, 10, refusePostgres, handlePostgres)
	})
}

// request returns the answer's status and body.
func request(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// eventually polls until ok, for at most 5 seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("not within 5s: %s", what)
		}
	}
}

// app is two orchestrators, workers behind a round robin, one redis and one
// postgres.
type app struct {
	orchestrators []*httptest.Server
	workers       []*worker
	followers     []*follower
}

func newApp(t *testing.T, step time.Duration) *app {
	t.Helper()
	a := &app{}
	var targets []http.Handler
	for _, name := range []string{"w1", "w2", "w3"} {
		w := newWorker(name, "v1", step)
		srv := httptest.NewServer(withTrace(w.handler()))
		t.Cleanup(srv.Close)
		u, err := url.Parse(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httputil.NewSingleHostReverseProxy(u)
		proxy.FlushInterval = -1
		proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
		a.workers = append(a.workers, w)
		targets = append(targets, proxy)
	}
	var turn atomic.Int64
	balancer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		targets[int(turn.Add(1))%len(targets)].ServeHTTP(w, r)
	}))
	t.Cleanup(balancer.Close)
	redisAddr, postgresAddr := startRedis(t), startPostgres(t)
	for _, name := range []string{"o1", "o2"} {
		redis := newRedisClient(redisAddr)
		t.Cleanup(redis.close)
		f := newFollower(quiet(), jobStore{redis}, balancer.URL)
		f.backoff = time.Millisecond
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			f.stop(ctx)
		})
		o := &orchestrator{name: name, start: time.Now(), store: jobStore{redis}, follow: f,
			ready: newReadiness(redis.ping, probePostgres(postgresAddr))}
		srv := httptest.NewServer(withTrace(o.handler()))
		t.Cleanup(srv.Close)
		a.orchestrators = append(a.orchestrators, srv)
		a.followers = append(a.followers, f)
	}
	return a
}

func (a *app) create(t *testing.T, body string) job {
	t.Helper()
	status, text := request(t, "POST", a.orchestrators[0].URL+"/api/jobs", body)
	if status != http.StatusCreated {
		t.Fatalf("POST: %d %s", status, text)
	}
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		t.Fatal(err)
	}
	return j
}

// get asks the other replica than create.
func (a *app) get(t *testing.T, id string) job {
	t.Helper()
	status, text := request(t, "GET", a.orchestrators[1].URL+"/api/jobs/"+id, "")
	var j job
	if err := json.Unmarshal([]byte(text), &j); status != http.StatusOK || err != nil {
		t.Fatalf("GET job %s: %d %s", id, status, text)
	}
	return j
}

func TestCommandLine(t *testing.T) {
	none := func(string) string { return "" }
	for _, c := range []struct {
		args []string
		env  environ
		code int
		want string
	}{
		{nil, none, 2, "usage:"},
		{[]string{"help"}, none, 0, "usage:"},
		{[]string{"cook"}, none, 2, "usage:"},
		{[]string{"web", "extra"}, none, 2, "usage:"},
		{[]string{"web"}, func(name string) string { return map[string]string{"LOG_LEVEL": "loud"}[name] }, 2, "LOG_LEVEL"},
		{[]string{"worker"}, func(name string) string { return map[string]string{"STEP": "fast"}[name] }, 1, "STEP"},
		{[]string{"orchestrator"}, func(name string) string { return map[string]string{"WORKER_URL": "worker"}[name] }, 1, "WORKER_URL"},
		{[]string{"load", "-c", "0"}, none, 2, "-c must be"},
		{[]string{"load", "-url", "nowhere"}, none, 2, "-url"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), c.args, c.env, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: %d %s, want %d %s", c.args, code, out.String(), c.code, c.want)
		}
	}
}

// Every role starts on a port of its own and stops cleanly when told to.
func TestRolesStartAndStop(t *testing.T) {
	for _, name := range []string{"web", "orchestrator", "worker", "collab", "redis", "postgres"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			env := func(name string) string {
				return map[string]string{"PORT": "0", "ADMIN_PORT": "0", "HEALTH_PORT": "0", "HOSTNAME": "h1"}[name]
			}
			out, in := io.Pipe()
			code := make(chan int, 1)
			go func() {
				code <- run(ctx, []string{name}, env, in, in)
				in.Close()
			}()
			lines := json.NewDecoder(out)
			var line struct{ Msg, Role, Address, Host string }
			if err := lines.Decode(&line); err != nil || line.Msg != "listening" || line.Role != name || line.Host != "h1" || line.Address == "" {
				t.Errorf("first line %+v, %v", line, err)
			}
			cancel()
			io.Copy(io.Discard, out)
			if c := <-code; c != 0 {
				t.Errorf("exit status %d", c)
			}
		})
	}
}
