package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// OpenLoop sends HTTP/1.1 requests at a fixed rate whatever the answers take.
type OpenLoop struct {
	Address  string
	Rate     int // requests per second
	Conns    int
	Duration time.Duration
	Warmup   time.Duration // load before that, which is not counted
}

// Run returns the latencies, each measured from the moment the request was due:
// a server that stalls is charged for the requests that had to wait meanwhile
// (no coordinated omission). Requests that fail are an error.
func (o OpenLoop) Run(ctx context.Context) (*Histogram, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Warmup+o.Duration+10*time.Second, errors.New("the requests do not come to an end"))
	defer cancel()
	due := make(chan time.Time, 10*o.Rate) // what waits is counted from when it was due
	counted := time.Now().Add(o.Warmup)
	type result struct {
		h   *Histogram
		err error
	}
	results := make(chan result, o.Conns)
	for range o.Conns {
		go func() {
			h, err := o.worker(ctx, due, counted)
			results <- result{h, err}
		}()
	}
	pace(ctx, o.Rate, o.Warmup+o.Duration, due)
	all := &Histogram{}
	var failed error
	for range o.Conns {
		r := <-results
		if r.err != nil {
			failed = r.err
			continue
		}
		all.Add(r.h)
	}
	return all, failed
}

// pace sends the due times. It keeps a thread of its own and the kernel's
// clock: Go's timers are up to a millisecond late, which is more than what is
// measured.
func pace(ctx context.Context, rate int, d time.Duration, due chan<- time.Time) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(due)
	start, step := time.Now(), time.Second/time.Duration(rate)
	for i := range int(d / step) {
		at := start.Add(time.Duration(i) * step)
		if wait := time.Until(at); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // cut short: the request goes out early, and its time counts from then
		}
		select {
		case due <- at:
		case <-ctx.Done():
			return
		}
	}
}

func (o OpenLoop) worker(ctx context.Context, due <-chan time.Time, counted time.Time) (*Histogram, error) {
	h := &Histogram{}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r := bufio.NewReader(conn)
	request := []byte("GET / HTTP/1.1\r\nHost: server\r\n\r\n")
	for at := range due {
		if now := time.Now(); now.Before(at) {
			at = now
		}
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if err := skipResponse(r); err != nil {
			return nil, fmt.Errorf("answer: %w", errors.Join(err, context.Cause(ctx)))
		}
		if !at.Before(counted) {
			h.Record(time.Since(at))
		}
	}
	return h, nil
}

// skipResponse reads one response with a length; anything but 200 is an error.
func skipResponse(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(line), "HTTP/1.1 200 ") {
		return fmt.Errorf("%q", line)
	}
	length := -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if name, value, _ := strings.Cut(string(line), ":"); strings.EqualFold(name, "content-length") {
			if _, err := fmt.Sscan(value, &length); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("the answer has no length")
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return err
}

// each runs f n times at once and joins the errors.
func each(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
