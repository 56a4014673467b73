package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// loadPlan is what the flags of researchflow load say.
type loadPlan struct {
	url, token string
	workers    int
	requests   int64         // 0: no limit
	duration   time.Duration // 0: no limit
	rate       float64       // requests per second over all workers; 0: as fast as they go
	timeout    time.Duration // of one request
}

func parseLoad(args []string, stderr io.Writer) (loadPlan, error) {
	var p loadPlan
	fs := flag.NewFlagSet("researchflow load", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&p.url, "url", "http://localhost:8080/api/work", "what to GET")
	fs.StringVar(&p.token, "token", "", "bearer token to send")
	fs.IntVar(&p.workers, "c", 8, "concurrent requests")
	fs.Int64Var(&p.requests, "n", 0, "stop after this many requests; 0 is no limit")
	fs.DurationVar(&p.duration, "duration", 10*time.Second, "stop after this time; no limit when only -n is given")
	fs.Float64Var(&p.rate, "rate", 0, "requests per second in all; 0 is as fast as possible")
	fs.DurationVar(&p.timeout, "timeout", 30*time.Second, "limit of one request")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if given["n"] && p.requests > 0 && !given["duration"] {
		p.duration = 0
	}
	var err error
	u, urlErr := url.Parse(p.url)
	switch {
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case urlErr != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		err = fmt.Errorf("-url %q is not an http or https URL", p.url)
	case p.workers < 1 || p.workers > 2000:
		err = errors.New("-c must be 1 to 2000")
	case p.requests < 0 || p.duration < 0 || p.timeout <= 0:
		err = errors.New("-n and -duration must not be negative, -timeout must be positive")
	case !(p.rate == 0 || p.rate >= 0.01 && p.rate <= 1e6):
		err = errors.New("-rate must be 0, or 0.01 to 1000000")
	case p.requests == 0 && p.duration == 0:
		err = errors.New("-n or -duration must set a limit")
	}
	if err != nil {
		fmt.Fprintln(stderr, "researchflow load:", err)
	}
	return p, err
}

// runLoad is the load role. It returns 1 when a request failed: no answer, or
// a status of 500 and more; so did the run when it sent none.
func runLoad(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	plan, err := parseLoad(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	total, took := plan.run(ctx)
	total.print(stdout, took)
	if total.failed > 0 || total.requests == 0 {
		return 1
	}
	return 0
}

// run sends the requests and returns what came of them. When the time is over
// or ctx ends, it starts none and waits for those under way.
func (p loadPlan) run(ctx context.Context) (*tally, time.Duration) {
	if p.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.duration)
		defer cancel()
	}
	transport := newTransport()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, max(64, p.workers)
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		Timeout:       p.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	start := time.Now()
	var (
		wg    sync.WaitGroup
		sent  atomic.Int64
		total = newTally()
		mu    sync.Mutex // guards total
	)
	for range p.workers {
		wg.Go(func() {
			own := newTally()
			for {
				n := sent.Add(1)
				if p.requests > 0 && n > p.requests || !p.turn(ctx, start, n) {
					break
				}
				p.one(client, own)
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(own)
		})
	}
	wg.Wait()
	return total, time.Since(start)
}

// turn waits until request n, counted from 1, is due; false when the run ends
// before.
func (p loadPlan) turn(ctx context.Context, start time.Time, n int64) bool {
	if ctx.Err() != nil {
		return false
	}
	if p.rate == 0 {
		return true
	}
	wait := time.Until(start.Add(time.Duration(float64(n-1) / p.rate * float64(time.Second))))
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// one sends one request; its latency includes reading the whole answer.
func (p loadPlan) one(client *http.Client, t *tally) {
	req, err := http.NewRequest(http.MethodGet, p.url, nil)
	if err != nil {
		t.record(0, 0, err)
		return
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	start := time.Now()
	resp, err := client.Do(req)
	status := 0
	if err == nil {
		status = resp.StatusCode
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	t.record(time.Since(start), status, err)
}

// tally counts requests. Not safe for concurrent use: each worker has its own.
type tally struct {
	requests, failed int64
	outcomes         map[string]int64 // by status or error text, at most maxOutcomes
	latency          histogram
}

const maxOutcomes = 40

func newTally() *tally { return &tally{outcomes: map[string]int64{}} }

func (t *tally) record(d time.Duration, status int, err error) {
	t.requests++
	if err != nil || status >= 500 {
		t.failed++
	}
	outcome := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if err != nil {
		outcome = errorText(err)
	}
	t.count(outcome, 1)
	t.latency.record(d)
}

func (t *tally) count(outcome string, n int64) {
	if _, known := t.outcomes[outcome]; !known && len(t.outcomes) >= maxOutcomes {
		outcome = "other errors"
	}
	t.outcomes[outcome] += n
}

func (t *tally) add(o *tally) {
	t.requests += o.requests
	t.failed += o.failed
	for outcome, n := range o.outcomes {
		t.count(outcome, n)
	}
	t.latency.add(&o.latency)
}

// errorText leaves out addresses: every connection has a port of its own, and
// the errors of one cause should be one line.
func errorText(err error) string {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return "timeout"
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Op + ": " + e.Err.Error()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

func (t *tally) print(w io.Writer, took time.Duration) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "requests\t%d in %s\n", t.requests, took.Round(time.Millisecond))
	fmt.Fprintf(tw, "rate\t%.1f req/s\n", float64(t.requests)/max(took.Seconds(), 1e-9))
	fmt.Fprintf(tw, "failed\t%d\n", t.failed)
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", .50}, {"p90", .90}, {"p99", .99}, {"max", 1}} {
		fmt.Fprintf(tw, "%s\t%s\n", q.name, t.latency.quantile(q.share).Round(10*time.Microsecond))
	}
	outcomes := make([]string, 0, len(t.outcomes))
	for outcome := range t.outcomes {
		outcomes = append(outcomes, outcome)
	}
	slices.SortFunc(outcomes, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.outcomes[b], t.outcomes[a]), cmp.Compare(a, b))
	})
	fmt.Fprintf(tw, "\noutcome\tcount\n")
	for _, outcome := range outcomes {
		fmt.Fprintf(tw, "%s\t%d\n", outcome, t.outcomes[outcome])
	}
	tw.Flush()
}

// histogram counts durations in buckets whose width is at most 1/64 of the
// value, in constant memory whatever the length of the run.
type histogram struct {
	buckets [64 * 40]int64
	count   int64
	max     time.Duration
}

// bucketOf is the index for d in microseconds: exact below 128, then 64
// buckets for each power of two.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 128 {
		return int(us)
	}
	shift := bits.Len64(us) - 7
	return min(shift*64+int(us>>shift), len(histogram{}.buckets)-1)
}

// bucketTop is the largest duration of a bucket.
func bucketTop(i int) time.Duration {
	if i < 128 {
		return time.Duration(i+1)*time.Microsecond - 1
	}
	shift := i/64 - 1
	return time.Duration(uint64(i-shift*64+1)<<shift)*time.Microsecond - 1
}

func (h *histogram) record(d time.Duration) {
	h.buckets[bucketOf(d)]++
	h.count++
	h.max = max(h.max, d)
}

func (h *histogram) add(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
	h.max = max(h.max, o.max)
}

// quantile returns a duration that this share of the records, 0 to 1, did not
// exceed; 0 without records.
func (h *histogram) quantile(share float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	want := max(int64(share*float64(h.count)+0.5), 1)
	var seen int64
	for i, n := range h.buckets {
		if seen += n; seen >= want {
			return min(bucketTop(i), h.max)
		}
	}
	return h.max
}
