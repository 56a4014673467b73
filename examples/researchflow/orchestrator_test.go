package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A job made on one replica runs on some worker and is seen on the other.
func TestJobReachesDone(t *testing.T) {
	a := newApp(t, time.Millisecond)
	j := a.create(t, `{"title": " first ", "steps": 5}`)
	if j.ID != "1" || j.Title != "first" || j.State != stateQueued || j.Created.IsZero() {
		t.Errorf("created %+v", j)
	}
	eventually(t, "the job is done", func() bool { return a.get(t, j.ID).State == stateDone })
	done := a.get(t, j.ID)
	if done.Progress != 100 || !strings.HasPrefix(done.Worker, "w") || done.Version != "v1" || done.Error != "" {
		t.Errorf("done %+v", done)
	}

	second := a.create(t, `{"title": "second"}`)
	_, one := request(t, "GET", a.orchestrators[0].URL+"/api/jobs", "")
	var jobs []job
	if err := json.Unmarshal([]byte(one), &jobs); err != nil || len(jobs) != 2 || jobs[0].ID != second.ID {
		t.Errorf("list: %v %s", err, one)
	}
	eventually(t, "the second is done", func() bool { return a.get(t, second.ID).State == stateDone })
	status, stats := request(t, "GET", a.orchestrators[1].URL+"/api/admin/stats", "")
	if status != 200 || !strings.Contains(stats, `"done":2`) || !strings.Contains(stats, `"orchestrator":"o2"`) {
		t.Errorf("stats: %d %s", status, stats)
	}
}

// A deleted job is gone on both replicas, stops its worker, and its follower
// leaves nothing in Redis.
func TestDeleteRunningJob(t *testing.T) {
	a := newApp(t, 5*time.Millisecond)
	j := a.create(t, `{"title": "long", "steps": 1000}`)
	eventually(t, "the job runs", func() bool { return a.get(t, j.ID).State == stateRunning })
	status, text := request(t, "DELETE", a.orchestrators[1].URL+"/api/jobs/"+j.ID, "")
	if status != 200 || !strings.Contains(text, `"title":"long"`) {
		t.Errorf("DELETE: %d %s", status, text)
	}
	for _, o := range a.orchestrators {
		if status, _ := request(t, "GET", o.URL+"/api/jobs/"+j.ID, ""); status != 404 {
			t.Errorf("GET after DELETE: %d", status)
		}
	}
	if status, _ := request(t, "DELETE", a.orchestrators[0].URL+"/api/jobs/"+j.ID, ""); status != 404 {
		t.Errorf("second DELETE: %d", status)
	}
	eventually(t, "the follower stops", func() bool { return a.followers[0].count() == 0 })
	eventually(t, "the workers stop", func() bool {
		busy := 0
		for _, w := range a.workers {
			w.mu.Lock()
			busy += len(w.runs)
			w.mu.Unlock()
		}
		return busy == 0
	})
	left, err := a.followers[0].store.redis.hgetall(t.Context(), keyStatus)
	if err != nil || len(left) != 0 {
		t.Errorf("left in redis: %v %v", left, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	a := newApp(t, time.Millisecond)
	for body, want := range map[string]int{
		`{}`:                             400,
		`{"title": 3}`:                   400,
		`{"title": "a"} more`:            400,
		`{"title": "a", "steps": -1}`:    400,
		`{"title": "a", "steps": 10000}`: 400,
		`{"title": "` + strings.Repeat("x", 201) + `"}`:       400,
		`{"title": "` + strings.Repeat("x", maxBody+1) + `"}`: 413,
	} {
		if status, text := request(t, "POST", a.orchestrators[0].URL+"/api/jobs", body); status != want {
			t.Errorf("%.40s: %d %s, want %d", body, status, text, want)
		}
	}
}

// One failing worker of three costs tries, not jobs; three failing cost the
// job, which stays in the list with the reason.
func TestFailingWorkers(t *testing.T) {
	a := newApp(t, time.Millisecond)
	fail := func(w *worker, what string) {
		t.Helper()
		rec := httptest.NewRecorder()
		w.admin().ServeHTTP(rec, httptest.NewRequest("POST", "/fail?"+what, nil))
		if rec.Code != 200 {
			t.Fatalf("fail: %d %s", rec.Code, rec.Body)
		}
	}
	fail(a.workers[0], "status=503&for=1m")
	j := a.create(t, `{"title": "a", "steps": 2}`)
	eventually(t, "the job is done", func() bool { return a.get(t, j.ID).State == stateDone })

	fail(a.workers[1], "status=503&for=1m")
	fail(a.workers[2], "status=503&for=1m")
	status, text := request(t, "POST", a.orchestrators[0].URL+"/api/jobs", `{"title": "b"}`)
	if status != 502 || !strings.Contains(text, "worker answered 503: worker w") {
		t.Errorf("POST without workers: %d %s", status, text)
	}
	if j := a.get(t, "2"); j.State != stateFailed || !strings.Contains(j.Error, "503") {
		t.Errorf("failed job %+v", j)
	}
	if status, text := request(t, "GET", a.orchestrators[0].URL+"/api/work", ""); status != 503 {
		t.Errorf("work: %d %s", status, text)
	}
	for _, w := range a.workers {
		fail(w, "for=0s")
	}
	status, text = request(t, "GET", a.orchestrators[0].URL+"/api/work?ms=0", "")
	if status != 200 || !strings.Contains(text, `"orchestrator":"o1"`) || !strings.Contains(text, `"version":"v1"`) {
		t.Errorf("work: %d %s", status, text)
	}
}

// A stream that breaks off is run again, up to the limit.
func TestBrokenRun(t *testing.T) {
	for _, c := range []struct {
		name   string
		broken int // runs that break off
		status int // instead of a run, when not 0
		state  string
		runs   int
	}{
		{name: "recovers", broken: runRetries, state: stateDone, runs: runRetries + 1},
		{name: "gives up", broken: 100, state: stateFailed, runs: runRetries + 1},
		{name: "a denial is final", status: 403, state: stateFailed, runs: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			runs := 0
			mux := http.NewServeMux()
			mux.HandleFunc("POST /jobs/{id}/run", func(w http.ResponseWriter, _ *http.Request) {
				if runs++; c.status != 0 {
					w.WriteHeader(c.status)
					return
				}
				w.Write([]byte(`{"progress":40,"worker":"w","version":"v9"}` + "\n"))
				if runs <= c.broken {
					http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
				w.Write([]byte(`{"progress":100,"worker":"w","version":"v9","state":"done"}` + "\n"))
			})
			srv := httptest.NewServer(mux)
			defer srv.Close()
			redis := newRedisClient(startRedis(t))
			defer redis.close()
			f := newFollower(quiet(), jobStore{redis}, srv.URL)
			f.backoff = time.Microsecond
			j, err := f.store.create(t.Context(), jobOrder{Title: "a"})
			if err != nil || !f.reserve() {
				t.Fatal(err)
			}
			f.start(t.Context(), j)
			f.stop(t.Context())
			got, ok, err := f.store.get(t.Context(), j.ID)
			if err != nil || !ok || got.State != c.state || runs != c.runs {
				t.Errorf("%+v %v %v after %d runs, want %s after %d", got, ok, err, runs, c.state, c.runs)
			}
			if c.name == "gives up" && (got.Progress != 40 || got.Worker != "w" || got.Error == "") {
				t.Errorf("a failed job should tell how far it came: %+v", got)
			}
		})
	}
}

// Stopping an orchestrator cuts a run that outlasts the grace time and says so.
func TestStopCutsRuns(t *testing.T) {
	a := newApp(t, time.Hour)
	j := a.create(t, `{"title": "slow"}`)
	eventually(t, "the job runs", func() bool { return a.get(t, j.ID).State == stateRunning })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	redis := newRedisClient(a.followers[0].store.redis.address)
	defer redis.close()
	f := a.followers[0]
	done := make(chan struct{})
	go func() { f.stop(ctx); close(done) }()
	<-done
	for range cap(f.slots) {
		<-f.slots // so that the cleanup can stop it once more
	}
	got, _, err := jobStore{redis}.get(t.Context(), j.ID)
	if err != nil || got.State != stateFailed || got.Error != "the orchestrator stopped" {
		t.Errorf("%+v %v", got, err)
	}
	if f.reserve() {
		t.Error("a stopped follower took a job")
	}
}

func TestTraceHeadersGoOn(t *testing.T) {
	got := make(chan http.Header, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		writeJSON(w, 200, map[string]string{})
	}))
	defer srv.Close()
	o := &orchestrator{follow: newFollower(quiet(), jobStore{}, srv.URL)}
	defer o.follow.stop(t.Context())
	req := httptest.NewRequest("GET", "/api/work", nil)
	sent := []string{"traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-sampled", "x-request-id"}
	for _, name := range sent {
		req.Header.Set(name, "v-"+name)
	}
	req.Header.Set("Authorization", "Bearer secret")
	withTrace(http.HandlerFunc(o.work)).ServeHTTP(httptest.NewRecorder(), req)
	h := <-got
	for _, name := range sent {
		if h.Get(name) != "v-"+name {
			t.Errorf("%s = %q", name, h.Get(name))
		}
	}
	if h.Get("Authorization") != "" {
		t.Error("the caller's token went to the worker")
	}
}

func TestOrchestratorNotReady(t *testing.T) {
	a := newApp(t, time.Millisecond)
	if status, text := request(t, "GET", a.orchestrators[0].URL+"/readyz", ""); status != 200 {
		t.Errorf("ready: %d %s", status, text)
	}
	redis := newRedisClient("127.0.0.1:1")
	o := &orchestrator{store: jobStore{redis}, ready: newReadiness(redis.ping, probePostgres("127.0.0.1:1"))}
	for path, want := range map[string]int{"/readyz": 503, "/healthz": 200, "/api/jobs": 503, "/api/jobs/1": 503} {
		rec := httptest.NewRecorder()
		o.handler().ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != want {
			t.Errorf("%s: %d %s, want %d", path, rec.Code, rec.Body, want)
		}
		if path == "/readyz" && (!strings.Contains(rec.Body.String(), "redis") || !strings.Contains(rec.Body.String(), "postgres")) {
			t.Errorf("the reason names neither: %s", rec.Body)
		}
	}
}
