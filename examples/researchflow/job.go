package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The states of a job.
const (
	stateQueued  = "queued"
	stateRunning = "running"
	stateDone    = "done"
	stateFailed  = "failed"
)

// job is a job as the API shows it.
type job struct {
	ID       string    `json:"id"`
	Title    string    `json:"title"`
	Steps    int       `json:"steps,omitempty"` // 0: the worker's default
	State    string    `json:"state"`
	Progress int       `json:"progress"` // percent
	Worker   string    `json:"worker"`   // who runs or ran it
	Version  string    `json:"version"`  // of that worker
	Created  time.Time `json:"created"`
	Error    string    `json:"error"` // why it failed
}

// jobOrder is the half of a job that never changes.
type jobOrder struct {
	Title   string    `json:"title"`
	Steps   int       `json:"steps,omitempty"`
	Created time.Time `json:"created"`
}

// jobStatus is the half that its run rewrites.
type jobStatus struct {
	State    string `json:"state"`
	Progress int    `json:"progress"`
	Worker   string `json:"worker"`
	Version  string `json:"version"`
	Error    string `json:"error"`
}

// Keys in Redis. A job exists while its id is a field of keyOrders; the field
// of keyStatus is written by its follower alone.
const (
	keyNext   = "researchflow:next"
	keyOrders = "researchflow:orders"
	keyStatus = "researchflow:status"
)

// jobStore keeps the jobs in Redis, so that every replica of the orchestrator
// gives the same answers. Safe for concurrent use, across processes too.
type jobStore struct{ redis *redisClient }

// create stores a new queued job under the next id.
func (s jobStore) create(ctx context.Context, order jobOrder) (job, error) {
	n, err := s.redis.incr(ctx, keyNext)
	if err != nil {
		return job{}, err
	}
	id := strconv.FormatInt(n, 10)
	b, err := json.Marshal(order)
	if err != nil {
		return job{}, err
	}
	if err := s.redis.hset(ctx, keyOrders, id, string(b)); err != nil {
		return job{}, err
	}
	return newJob(id, order, jobStatus{State: stateQueued}), nil
}

func newJob(id string, order jobOrder, status jobStatus) job {
	return job{
		ID: id, Title: order.Title, Steps: order.Steps, Created: order.Created,
		State: status.State, Progress: status.Progress,
		Worker: status.Worker, Version: status.Version, Error: status.Error,
	}
}

// decodeJob joins the two halves; an empty status is a job nobody ran yet.
func decodeJob(id, order, status string) (job, error) {
	var o jobOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		return job{}, fmt.Errorf("job %s in redis: %w", id, err)
	}
	st := jobStatus{State: stateQueued}
	if status != "" {
		if err := json.Unmarshal([]byte(status), &st); err != nil {
			return job{}, fmt.Errorf("status of job %s in redis: %w", id, err)
		}
	}
	return newJob(id, o, st), nil
}

// get returns false when there is no such job.
func (s jobStore) get(ctx context.Context, id string) (job, bool, error) {
	order, ok, err := s.redis.hget(ctx, keyOrders, id)
	if err != nil || !ok {
		return job{}, false, err
	}
	status, _, err := s.redis.hget(ctx, keyStatus, id)
	if err != nil {
		return job{}, false, err
	}
	j, err := decodeJob(id, order, status)
	return j, err == nil, err
}

// list returns every job, the newest first.
func (s jobStore) list(ctx context.Context) ([]job, error) {
	orders, err := s.redis.hgetall(ctx, keyOrders)
	if err != nil {
		return nil, err
	}
	statuses, err := s.redis.hgetall(ctx, keyStatus)
	if err != nil {
		return nil, err
	}
	jobs := make([]job, 0, len(orders))
	for id, order := range orders {
		j, err := decodeJob(id, order, statuses[id])
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	// Ids are decimal numbers without leading zeros: the longer is the larger.
	slices.SortFunc(jobs, func(a, b job) int {
		return -cmp.Or(cmp.Compare(len(a.ID), len(b.ID)), cmp.Compare(a.ID, b.ID))
	})
	return jobs, nil
}

// delete returns the job as it was, or false when there was none or another
// request deleted it first.
func (s jobStore) delete(ctx context.Context, id string) (job, bool, error) {
	j, ok, err := s.get(ctx, id)
	if err != nil || !ok {
		return job{}, false, err
	}
	// The order first: see setStatus.
	if ok, err = s.redis.hdel(ctx, keyOrders, id); err != nil || !ok {
		return job{}, false, err
	}
	_, err = s.redis.hdel(ctx, keyStatus, id)
	return j, err == nil, err
}

// setStatus returns false when the job has been deleted. It writes first and
// looks second, and delete removes the order first: whichever comes last takes
// the status away, so a deleted job leaves nothing behind.
func (s jobStore) setStatus(ctx context.Context, id string, status jobStatus) (bool, error) {
	b, err := json.Marshal(status)
	if err != nil {
		return false, err
	}
	if err := s.redis.hset(ctx, keyStatus, id, string(b)); err != nil {
		return false, err
	}
	_, ok, err := s.redis.hget(ctx, keyOrders, id)
	if err != nil || ok {
		return ok, err
	}
	_, err = s.redis.hdel(ctx, keyStatus, id)
	return false, err
}
