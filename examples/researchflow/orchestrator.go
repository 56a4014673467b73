package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

const maxTitle = 200 // characters

// runOrchestrator is the orchestrator role.
func runOrchestrator(ctx context.Context, env environ, log *slog.Logger) error {
	workers, err := url.Parse(env.text("WORKER_URL", "http://worker:8000"))
	if err != nil || workers.Scheme == "" || workers.Host == "" {
		return fmt.Errorf("WORKER_URL=%q is not a URL such as http://worker:8000", env("WORKER_URL"))
	}
	redis := newRedisClient(env.text("REDIS_ADDR", "redis:6379"))
	defer redis.close()
	o := &orchestrator{
		name:   env.hostname(),
		start:  time.Now(),
		store:  jobStore{redis},
		follow: newFollower(log, jobStore{redis}, strings.TrimSuffix(workers.String(), "/")),
		ready:  newReadiness(redis.ping, probePostgres(env.text("POSTGRES_ADDR", "postgres:5432"))),
	}
	err = listenHTTP(ctx, log, env.address("3001"), o.handler())
	// The runs have the grace time again, after the requests had theirs.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	o.follow.stop(stop)
	return err
}

// orchestrator is the API. Immutable after construction; the jobs are in store.
type orchestrator struct {
	name   string
	start  time.Time
	store  jobStore
	follow *follower
	ready  *readiness
}

func (o *orchestrator) handler() http.Handler {
	mux := http.NewServeMux()
	mountHealth(mux, o.ready.check)
	mux.HandleFunc("GET /api/jobs", o.list)
	mux.HandleFunc("POST /api/jobs", o.create)
	mux.HandleFunc("GET /api/jobs/{id}", o.get)
	mux.HandleFunc("DELETE /api/jobs/{id}", o.remove)
	mux.HandleFunc("GET /api/admin/stats", o.stats)
	mux.HandleFunc("GET /api/work", o.work)
	mux.HandleFunc("GET /graphql", o.graphql)
	mux.HandleFunc("POST /graphql", o.graphql)
	return mux
}

// unavailable answers for a store that failed.
func unavailable(w http.ResponseWriter, err error) {
	writeError(w, http.StatusServiceUnavailable, "the job store failed: %v", err)
}

func (o *orchestrator) list(w http.ResponseWriter, r *http.Request) {
	jobs, err := o.store.list(r.Context())
	if err != nil {
		unavailable(w, err)
		return
	}
	writeJSON(w, http.StatusOK, jobs)
}

// create stores the job, hands it to a worker and follows its run after the
// answer. A job that no worker takes stays in the list as failed.
func (o *orchestrator) create(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Title string `json:"title"`
		Steps int    `json:"steps"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	in.Title = strings.TrimSpace(in.Title)
	if in.Title == "" || utf8.RuneCountInString(in.Title) > maxTitle {
		writeError(w, http.StatusBadRequest, "title must be 1 to %d characters", maxTitle)
		return
	}
	if in.Steps < 0 || in.Steps > maxSteps {
		writeError(w, http.StatusBadRequest, "steps must be 1 to %d", maxSteps)
		return
	}
	if !o.follow.reserve() {
		writeError(w, http.StatusServiceUnavailable, "too many jobs run already")
		return
	}
	// A caller that hangs up must not leave a job that nobody follows.
	ctx := context.WithoutCancel(r.Context())
	j, err := o.store.create(ctx, jobOrder{Title: in.Title, Steps: in.Steps, Created: time.Now().UTC()})
	if err != nil {
		o.follow.release()
		unavailable(w, err)
		return
	}
	if err := o.follow.handOver(ctx, j); err != nil {
		o.follow.fail(ctx, j, jobStatus{}, err)
		o.follow.release()
		writeError(w, http.StatusBadGateway, "job %s was not taken: %v", j.ID, err)
		return
	}
	o.follow.start(ctx, j)
	w.Header().Set("Location", "/api/jobs/"+j.ID)
	writeJSON(w, http.StatusCreated, j)
}

func (o *orchestrator) get(w http.ResponseWriter, r *http.Request) {
	o.one(w, r, o.store.get)
}

// remove deletes a job. A running one stops at its next step, whichever
// replica follows it.
func (o *orchestrator) remove(w http.ResponseWriter, r *http.Request) {
	o.one(w, r, o.store.delete)
}

func (o *orchestrator) one(w http.ResponseWriter, r *http.Request, f func(context.Context, string) (job, bool, error)) {
	id := r.PathValue("id")
	j, ok, err := f(r.Context(), id)
	switch {
	case err != nil:
		unavailable(w, err)
	case !ok:
		writeError(w, http.StatusNotFound, "there is no job %.40q", id)
	default:
		writeJSON(w, http.StatusOK, j)
	}
}

// stats counts the jobs of all replicas; following is this replica's own.
func (o *orchestrator) stats(w http.ResponseWriter, r *http.Request) {
	jobs, err := o.store.list(r.Context())
	if err != nil {
		unavailable(w, err)
		return
	}
	states := map[string]int{stateQueued: 0, stateRunning: 0, stateDone: 0, stateFailed: 0}
	workers := map[string]int{}
	for _, j := range jobs {
		states[j.State]++
		if j.Worker != "" {
			workers[j.Worker+" "+j.Version]++
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"orchestrator": o.name, "uptime_seconds": int(time.Since(o.start).Seconds()),
		"jobs": len(jobs), "states": states, "workers": workers, "following": o.follow.count(),
	})
}

// work is a quick request through both hops. A worker's 5xx is passed on as it
// is; anything else but 200 is a 502, since it is not the caller's fault.
func (o *orchestrator) work(w http.ResponseWriter, r *http.Request) {
	var answer struct {
		Worker       string `json:"worker"`
		Version      string `json:"version"`
		Orchestrator string `json:"orchestrator"`
	}
	path := "/work?" + url.Values{"ms": {cmp.Or(r.URL.Query().Get("ms"), "5")}}.Encode()
	ctx, cancel := context.WithTimeout(r.Context(), maxWork+5*time.Second)
	defer cancel()
	err := o.follow.call(ctx, http.MethodGet, path, nil, http.StatusOK, &answer)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.status >= 500 {
		writeError(w, refused.status, "%v", err)
		return
	}
	if err != nil {
		writeError(w, http.StatusBadGateway, "%v", err)
		return
	}
	answer.Orchestrator = o.name
	writeJSON(w, http.StatusOK, answer)
}
