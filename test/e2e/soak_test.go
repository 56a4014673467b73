package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestSoak runs mixed load on ResearchFlow for as long as TULLE_SOAK says,
// while every few seconds a configuration is edited or a worker killed and
// every sidecar's certificate is renewed about once a minute (make soak).
func TestSoak(t *testing.T) {
	d, err := time.ParseDuration(os.Getenv("TULLE_SOAK"))
	if err != nil {
		t.Skip("TULLE_SOAK is not set to a duration")
	}
	t.Setenv("SECRET_TTL", "2m") // renewed around half of it
	m := start(t)
	m.need("curl")
	s := &soak{m: m, seed: uint64(time.Now().UnixNano())}
	t.Logf("seed %d", s.seed)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	s.run(ctx)
	s.report()
}

type soak struct {
	m    *mesh
	seed uint64

	handing sync.Mutex // held while a job is handed to a worker

	good   atomic.Int64
	mu     sync.Mutex
	bad    []string
	events map[string]int
	rows   []usage
}

// usage is what all sidecars together occupy.
type usage struct {
	at                  time.Duration
	resident, goroutine int64
	sidecars            int
}

func (s *soak) run(ctx context.Context) {
	s.events = map[string]int{}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() { s.call(ctx, i) })
	}
	wg.Go(func() { s.work(ctx) })
	wg.Go(func() { s.talk(ctx) })
	rng := rand.New(rand.NewPCG(s.seed, 0))
	change, look := time.NewTicker(15*time.Second), time.NewTicker(30*time.Second)
	defer change.Stop()
	defer look.Stop()
	for {
		select {
		case <-change.C:
			s.change(rng)
		case <-look.C:
			u := s.look()
			u.at = time.Since(start).Round(time.Second)
			s.rows = append(s.rows, u)
			s.m.t.Logf("%6v  %7d requests well, %d not; %d sidecars, %5.1f MB, %d goroutines", u.at, s.good.Load(), s.failed(), u.sidecars, float64(u.resident)/(1<<20), u.goroutine)
		case <-ctx.Done():
			wg.Wait()
			return
		}
	}
}

// call asks for work about 20 times a second until ctx ends.
func (s *soak) call(ctx context.Context, caller int) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	const query = `{"query":"{ jobs { id } }"}`
	kinds := []struct {
		role, method, path, body string
		want                     int
	}{
		{"viewer", "GET", "/api/work", "", 200},
		{"viewer", "GET", "/", "", 200},
		{"researcher", "GET", "/api/work", "", 200},
		{"viewer", "POST", "/graphql", query, 200},
		{"", "GET", "/api/jobs", "", 403},
		{"researcher", "GET", "/api/admin/stats", "", 403},
		{"researcher", "GET", "/api/jobs", "", 200},
	}
	for i := caller; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		k := kinds[i%len(kinds)]
		s.ask(k.role, k.method, k.path, k.body, k.want)
	}
}

// ask makes one request and counts how it went.
func (s *soak) ask(role, method, path, body string, want int) (answer string) {
	status, answer, err := s.m.try(role, method, "http://"+s.m.gateway+path, body)
	if status != want || err != nil {
		s.fault("%s %s as %q: %d, want %d: %.100s %v", method, path, role, status, want, answer, err)
		return ""
	}
	s.good.Add(1)
	return answer
}

func (s *soak) fault(format string, args ...any) {
	s.mu.Lock()
	s.bad = append(s.bad, fmt.Sprintf(format, args...))
	s.mu.Unlock()
}

// work has a job done by a worker, looks at it and deletes it, once a second.
func (s *soak) work(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.handing.Lock()
		answer := s.ask("researcher", "POST", "/api/jobs", `{"title":"soak","steps":1}`, 201)
		s.handing.Unlock()
		var job struct{ ID string }
		if answer == "" {
			continue
		}
		if err := json.Unmarshal([]byte(answer), &job); err != nil {
			s.fault("POST /api/jobs answers %.100s: %v", answer, err)
			continue
		}
		s.ask("viewer", "GET", "/api/jobs/"+job.ID, "", 200)
		s.ask("admin", "DELETE", "/api/jobs/"+job.ID, "", 200)
	}
}

// talk sends messages through one WebSocket that lasts as long as the run.
func (s *soak) talk(ctx context.Context) {
	c, _, err := websocket.Dial(ctx, "ws://"+s.m.gateway+"/ws?room=soak", nil)
	if err != nil {
		s.fault("WebSocket: %v", err)
		return
	}
	defer c.CloseNow()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.echo(c, fmt.Sprintf("message %d", i)); err != nil {
			s.fault("WebSocket, message %d: %v", i, err)
			return
		}
		s.good.Add(1)
	}
}

// echo sends a message to the room and waits until the room has it.
func (s *soak) echo(c *websocket.Conn, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		return err
	}
	for {
		_, msg, err := c.Read(ctx)
		if err != nil || strings.Contains(string(msg), text) {
			return err
		}
	}
}

func (s *soak) failed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.bad)
}

var workTimeout = regexp.MustCompile(`timeout: (30|31|32|33)s`)

// change does one thing that must not be noticed by anybody.
func (s *soak) change(rng *rand.Rand) {
	kind := []string{"timeout", "retries", "worker"}[rng.IntN(3)]
	const file = "base/istio/virtual-services.yaml"
	text, err := os.ReadFile(filepath.Join(s.m.dir, file))
	if err != nil {
		s.m.t.Error(err)
		return
	}
	switch kind {
	case "timeout":
		s.m.write(file, workTimeout.ReplaceAllString(string(text), "timeout: "+strconv.Itoa(30+rng.IntN(4))+"s"))
	case "retries":
		s.m.write(file, regexp.MustCompile(`attempts: [345]`).ReplaceAllString(string(text), "attempts: "+strconv.Itoa(3+rng.IntN(3))))
	case "worker":
		s.handing.Lock() // a worker that dies with an order it has not answered loses it: POST is not repeated
		defer s.handing.Unlock()
		if err := s.m.kill("HOSTNAME=worker-v1-1\x00"); err != nil {
			kind = "worker not there"
		}
	}
	s.events[kind]++
}

// look sums what the sidecars of this run occupy.
func (s *soak) look() (u usage) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if !strings.HasPrefix(string(args), binaries.tulle+"\x00proxy\x00") {
			continue
		}
		status, _ := os.ReadFile("/proc/" + e.Name() + "/status")
		if f := regexp.MustCompile(`VmRSS:\s+(\d+)`).FindSubmatch(status); f != nil {
			kb, _ := strconv.ParseInt(string(f[1]), 10, 64)
			u.resident += kb << 10
			u.sidecars++
		}
	}
	for _, o := range []string{"orchestrator-0", "worker-v1-0", "web-0"} {
		out, _ := s.m.tulle("exec", o, "-c", "istio-proxy", "--", "curl", "-s", "localhost:15000/debug/pprof/goroutine?debug=1")
		if f := regexp.MustCompile(`goroutine profile: total (\d+)`).FindStringSubmatch(out); f != nil {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			u.goroutine += n
		}
	}
	return u
}

// report judges the run: no request lost, memory and goroutines level between
// the second quarter and the end.
func (s *soak) report() {
	t := s.m.t
	t.Logf("soak: %d requests went well, %d did not; events %v", s.good.Load(), len(s.bad), s.events)
	if len(s.bad) > 0 {
		t.Errorf("requests failed that should have succeeded: %s", few(s.bad))
	}
	if len(s.rows) < 4 {
		t.Log("too short to judge memory by")
		return
	}
	early, late := s.rows[len(s.rows)/4], s.rows[len(s.rows)-1]
	if float64(late.resident) > 1.2*float64(early.resident) {
		t.Errorf("memory grows: %d MB at %v, %d MB at %v", early.resident>>20, early.at, late.resident>>20, late.at)
	}
	if float64(late.goroutine) > 1.5*float64(early.goroutine)+20 {
		t.Errorf("goroutines grow: %d at %v, %d at %v", early.goroutine, early.at, late.goroutine, late.at)
	}
}
