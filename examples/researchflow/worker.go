package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	defaultSteps = 8
	maxSteps     = 1000
	maxRuns      = 256 // jobs at once
	maxWork      = 10 * time.Second
	maxFail      = time.Hour
)

// runWorker is the worker role. Its admin port is on loopback only, out of
// reach of the mesh and of other machines; ADMIN_PORT=off is none.
func runWorker(ctx context.Context, env environ, log *slog.Logger) error {
	step, err := env.duration("STEP", 300*time.Millisecond)
	if err != nil {
		return err
	}
	w := newWorker(env.hostname(), env.text("VERSION", "v1"), step)
	servers := []func(context.Context) error{
		func(ctx context.Context) error { return listenHTTP(ctx, log, env.address("8000"), w.handler()) },
	}
	if port := env.text("ADMIN_PORT", "8001"); port != "off" {
		servers = append(servers, func(ctx context.Context) error {
			return listenHTTP(ctx, log, "127.0.0.1:"+port, w.admin())
		})
	}
	return together(ctx, servers...)
}

// worker runs jobs. It keeps nothing of a job past its run: any replica can
// run any job, and run it again.
type worker struct {
	name, version string
	step          time.Duration // of one step of a job

	mu    sync.Mutex
	runs  map[*workerRun]struct{} // guarded by mu
	fail  int                     // status to answer with; guarded by mu
	until time.Time               // end of fail; guarded by mu
}

// workerRun is one run of a job; a retry may overlap the run it replaces.
type workerRun struct {
	ID       string `json:"id"`
	Title    string `json:"title"`
	Progress int    `json:"progress"` // guarded by worker.mu
}

// workerJob is what the orchestrator sends.
type workerJob struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Steps int    `json:"steps"` // 0: defaultSteps
}

// workerLine is one line of a run's answer.
type workerLine struct {
	Progress int    `json:"progress"`
	Worker   string `json:"worker"`
	Version  string `json:"version"`
	State    string `json:"state,omitempty"` // done on the last line
}

func newWorker(name, version string, step time.Duration) *worker {
	return &worker{name: name, version: version, step: step, runs: map[*workerRun]struct{}{}}
}

func (w *worker) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /jobs", w.accept)
	mux.HandleFunc("POST /jobs/{id}/run", w.run)
	mux.HandleFunc("GET /api/jobs", w.list)
	mux.HandleFunc("GET /work", w.work)
	top := http.NewServeMux()
	mountHealth(top, nil)
	top.Handle("/", w.failing(mux))
	return top
}

// admin serves POST /fail?status=500&for=10s: until then every request but the
// health checks gets that status. for=0s ends it.
func (w *worker) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /fail", func(rw http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(cmp.Or(r.FormValue("status"), "500"))
		if err != nil || status < 400 || status > 599 {
			writeError(rw, http.StatusBadRequest, "status must be 400 to 599")
			return
		}
		d, err := time.ParseDuration(cmp.Or(r.FormValue("for"), "10s"))
		if err != nil || d < 0 || d > maxFail {
			writeError(rw, http.StatusBadRequest, "for must be a duration from 0s to %s", maxFail)
			return
		}
		w.mu.Lock()
		w.fail, w.until = status, time.Now().Add(d)
		w.mu.Unlock()
		writeJSON(rw, http.StatusOK, map[string]any{"worker": w.name, "status": status, "for": d.String()})
	})
	return mux
}

func (w *worker) failing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		status, on := w.fail, time.Now().Before(w.until)
		w.mu.Unlock()
		if on {
			writeError(rw, status, "worker %s was told to fail", w.name)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// accept looks at a job without keeping it: the run may reach another replica.
func (w *worker) accept(rw http.ResponseWriter, r *http.Request) {
	var j workerJob
	if !readJSON(rw, r, &j) {
		return
	}
	if err := j.check(); err != nil {
		writeError(rw, http.StatusBadRequest, "%v", err)
		return
	}
	rw.Header().Set("Location", "/jobs/"+j.ID+"/run")
	writeJSON(rw, http.StatusAccepted, map[string]string{"id": j.ID, "worker": w.name, "version": w.version})
}

func (j workerJob) check() error {
	if !validID(j.ID) {
		return fmt.Errorf("id must be a number")
	}
	if j.Steps < 0 || j.Steps > maxSteps {
		return fmt.Errorf("steps must be 0 to %d", maxSteps)
	}
	return nil
}

// validID tells whether id is a job number as the orchestrator writes it.
func validID(id string) bool {
	n, err := strconv.ParseInt(id, 10, 64)
	return err == nil && n > 0 && strconv.FormatInt(n, 10) == id
}

// run does the job while the caller reads: one JSON line per step. It stops
// when the caller hangs up.
func (w *worker) run(rw http.ResponseWriter, r *http.Request) {
	var j workerJob
	if !readJSON(rw, r, &j) {
		return
	}
	j.ID = r.PathValue("id")
	if err := j.check(); err != nil {
		writeError(rw, http.StatusBadRequest, "%v", err)
		return
	}
	run := &workerRun{ID: j.ID, Title: j.Title}
	if !w.begin(run) {
		writeError(rw, http.StatusServiceUnavailable, "worker %s runs %d jobs already", w.name, maxRuns)
		return
	}
	defer w.end(run)
	rw.Header().Set("Content-Type", "application/x-ndjson")
	rw.Header().Set("Cache-Control", "no-store")
	out, enc := http.NewResponseController(rw), json.NewEncoder(rw)
	steps := cmp.Or(j.Steps, defaultSteps)
	tick := time.NewTicker(w.step)
	defer tick.Stop()
	for n := 0; ; n++ {
		line := workerLine{Progress: 100 * n / steps, Worker: w.name, Version: w.version}
		if n == steps {
			line.State = stateDone
		}
		w.mu.Lock()
		run.Progress = line.Progress
		w.mu.Unlock()
		if enc.Encode(line) != nil || out.Flush() != nil || n == steps {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

func (w *worker) begin(run *workerRun) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.runs) >= maxRuns {
		return false
	}
	w.runs[run] = struct{}{}
	return true
}

func (w *worker) end(run *workerRun) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.runs, run)
}

// list answers with the jobs that this replica runs now.
func (w *worker) list(rw http.ResponseWriter, _ *http.Request) {
	w.mu.Lock()
	runs := []workerRun{}
	for run := range w.runs {
		runs = append(runs, *run)
	}
	w.mu.Unlock()
	slices.SortFunc(runs, func(a, b workerRun) int { return cmp.Compare(a.ID, b.ID) })
	writeJSON(rw, http.StatusOK, runs)
}

// work takes ms milliseconds, 5 by default, and says who did it.
func (w *worker) work(rw http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("ms"), "5"))
	if err != nil || ms < 0 || ms > int(maxWork/time.Millisecond) {
		writeError(rw, http.StatusBadRequest, "ms must be 0 to %d", maxWork/time.Millisecond)
		return
	}
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		writeJSON(rw, http.StatusOK, map[string]string{"worker": w.name, "version": w.version})
	case <-r.Context().Done():
	}
}
