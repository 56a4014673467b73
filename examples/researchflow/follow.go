package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

const (
	maxFollowed  = 256              // jobs at once, per orchestrator
	runRetries   = 3                // after the first try
	callTimeout  = 5 * time.Second  // of a short call to a worker
	stallTimeout = 30 * time.Second // between two lines of a run
	maxRunLine   = 4 << 10          // bytes
)

// follower runs jobs on the workers and writes their progress to the store.
// Safe for concurrent use. Who made it calls stop, which ends every run.
type follower struct {
	log     *slog.Logger
	store   jobStore
	workers string // base URL, no slash at the end
	client  *http.Client
	backoff time.Duration // before the first retry; twice that before the next

	base   context.Context // of every run; ends in stop
	cancel context.CancelFunc
	slots  chan struct{} // one per job followed or about to be
}

func newFollower(log *slog.Logger, store jobStore, workers string) *follower {
	f := &follower{
		log: log, store: store, workers: workers, backoff: 100 * time.Millisecond,
		client: &http.Client{Transport: newTransport()},
		slots:  make(chan struct{}, maxFollowed),
	}
	f.base, f.cancel = context.WithCancel(context.Background())
	return f
}

// reserve takes the place of one job, or returns false when there is none. It
// must end in start or release.
func (f *follower) reserve() bool {
	if f.base.Err() != nil {
		return false
	}
	select {
	case f.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (f *follower) release()   { <-f.slots }
func (f *follower) count() int { return len(f.slots) }

// stop waits for the runs until ctx ends, then cuts them, and waits for their
// last word in the store. Taking every slot is waiting for every run.
func (f *follower) stop(ctx context.Context) {
	defer context.AfterFunc(ctx, f.cancel)()
	for range cap(f.slots) {
		f.slots <- struct{}{}
	}
	f.cancel()
	f.client.CloseIdleConnections()
}

// start follows a job in the place that reserve took.
func (f *follower) start(ctx context.Context, j job) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // keeps the tracing headers
	unhook := context.AfterFunc(f.base, cancel)
	go func() {
		defer f.release()
		defer cancel()
		defer unhook()
		var last jobStatus // what the store knows when all tries have failed
		err := f.retry(ctx, func() error { return f.run(ctx, j, &last) })
		switch {
		case err == nil:
			f.log.Info("job done", "job", j.ID)
		case errors.Is(err, errDeleted):
			f.log.Info("job deleted while running", "job", j.ID)
		case f.base.Err() != nil:
			f.fail(ctx, j, last, errors.New("the orchestrator stopped"))
		default:
			f.fail(ctx, j, last, err)
		}
	}()
}

// fail is the last word on a job; last tells how far it came, and where.
func (f *follower) fail(ctx context.Context, j job, last jobStatus, why error) {
	f.log.Warn("job failed", "job", j.ID, "error", why.Error())
	last.State, last.Error = stateFailed, why.Error()
	if _, err := f.store.setStatus(context.WithoutCancel(ctx), j.ID, last); err != nil {
		f.log.Error("job status not stored", "job", j.ID, "error", err.Error())
	}
}

var errDeleted = errors.New("the job was deleted")

// refusal is an answer of a worker, or of a proxy before it, with a status
// that we did not want.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("worker answered %d: %s", e.status, e.text), ": ")
}

// retry tries again what another replica may do better: a transport failure, a
// broken stream, a 5xx. A 4xx (an RBAC denial is 403) will not change.
func (f *follower) retry(ctx context.Context, try func() error) error {
	wait := f.backoff
	for n := 0; ; n++ {
		err := try()
		refused, _ := errors.AsType[*refusal](err)
		if err == nil || n == runRetries || errors.Is(err, errDeleted) || ctx.Err() != nil ||
			refused != nil && refused.status < 500 && refused.status != http.StatusTooManyRequests {
			return err
		}
		f.log.Info("trying again", "try", n+1, "error", err.Error())
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		wait *= 2
	}
}

// handOver asks the workers to accept a job.
func (f *follower) handOver(ctx context.Context, j job) error {
	return f.retry(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return f.call(ctx, http.MethodPost, "/jobs", workerJob{ID: j.ID, Title: j.Title, Steps: j.Steps}, http.StatusAccepted, nil)
	})
}

// call makes one short call; out, unless nil, gets the JSON of the answer.
func (f *follower) call(ctx context.Context, method, path string, in any, want int, out any) error {
	resp, err := f.send(ctx, method, path, in, want)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// send returns the answer only when it has the status wanted; its body is then
// the caller's to close.
func (f *follower) send(ctx context.Context, method, path string, in any, want int) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := newRequest(ctx, method, f.workers+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		resp.Body.Close()
		return nil, &refusal{resp.StatusCode, refusalText(text)}
	}
	return resp, nil
}

// refusalText is the error of a worker's JSON, or the plain text of a proxy.
func refusalText(body []byte) string {
	var worker struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &worker) == nil && worker.Error != "" {
		return worker.Error
	}
	return strings.TrimSpace(string(body))
}

// run is one try: it reads the lines of a worker and stores each, the newest in
// last too.
func (f *follower) run(ctx context.Context, j job, last *jobStatus) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("the worker said nothing for %s", stallTimeout)) })
	defer stall.Stop()
	resp, err := f.send(ctx, http.MethodPost, "/jobs/"+j.ID+"/run", workerJob{ID: j.ID, Title: j.Title, Steps: j.Steps}, http.StatusOK)
	if err != nil {
		return causeOr(ctx, err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxRunLine)
	for lines.Scan() {
		stall.Reset(stallTimeout)
		var line workerLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("a line of the run: %w", err)
		}
		status := jobStatus{State: stateRunning, Progress: min(max(line.Progress, 0), 100), Worker: line.Worker, Version: line.Version}
		if line.State == stateDone {
			status.State = stateDone
		}
		*last = status
		ok, err := f.store.setStatus(ctx, j.ID, status)
		if err != nil {
			return err
		}
		if !ok {
			return errDeleted
		}
		if status.State == stateDone {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return causeOr(ctx, fmt.Errorf("the run broke off: %w", err))
	}
	return errors.New("the run ended before the job was done")
}

// causeOr is why ctx ended, if it did, else err.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
