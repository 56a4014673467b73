package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoad(t *testing.T) {
	var served atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := served.Add(1)
		switch {
		case r.Header.Get("Authorization") != "Bearer T":
			w.WriteHeader(403)
		case r.URL.Path == "/flaky" && n%4 == 0:
			w.WriteHeader(503)
		case r.URL.Path == "/broken":
			panic(http.ErrAbortHandler)
		}
	}))
	srv.Config.ErrorLog = nil
	defer srv.Close()
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"good", []string{"-url", srv.URL, "-token", "T", "-n", "40"}, 0, []string{`requests +40 in`, `failed +0`, `p99 +\d`, `200 OK +40`}},
		{"denied is an answer", []string{"-url", srv.URL, "-n", "8"}, 0, []string{`403 Forbidden +8`}},
		{"some fail", []string{"-url", srv.URL + "/flaky", "-token", "T", "-n", "40", "-c", "1"}, 1, []string{`failed +10`, `200 OK +30`, `503 Service Unavailable +10`}},
		{"all fail", []string{"-url", srv.URL + "/broken", "-token", "T", "-n", "8", "-c", "2"}, 1, []string{`failed +8`, `EOF +8`}},
		{"nobody there", []string{"-url", "http://127.0.0.1:1/", "-n", "4"}, 1, []string{`dial: .*refused +4`}},
		{"for a time", []string{"-url", srv.URL, "-token", "T", "-duration", "30ms", "-rate", "300"}, 0, []string{`requests +\d`}},
		{"help", []string{"-h"}, 0, []string{`-rate`}},
	} {
		var out bytes.Buffer
		served.Store(0)
		if code := runLoad(t.Context(), c.args, &out, &out); code != c.code {
			t.Errorf("%s: exit status %d, want %d\n%s", c.name, code, c.code, &out)
		}
		for _, want := range c.want {
			if !regexp.MustCompile(want).MatchString(out.String()) {
				t.Errorf("%s: no %q in\n%s", c.name, want, &out)
			}
		}
	}
}

// Request n starts (n-1)/rate after the first, and none after the end.
func TestLoadRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := loadPlan{rate: 10}
		start := time.Now()
		for n := int64(1); n <= 5; n++ {
			if !p.turn(t.Context(), start, n) || time.Since(start) != time.Duration(n-1)*100*time.Millisecond {
				t.Errorf("request %d after %s", n, time.Since(start))
			}
		}
	})
}

func TestLoadFlags(t *testing.T) {
	for _, c := range []struct {
		args     string
		duration time.Duration
		ok       bool
	}{
		{"", 10 * time.Second, true},
		{"-n 5", 0, true},
		{"-n 5 -duration 2s", 2 * time.Second, true},
		{"-duration 0", 0, false},
		{"-rate -1", 0, false},
		{"-rate NaN", 0, false},
		{"-timeout 0s", 0, false},
		{"extra", 0, false},
	} {
		p, err := parseLoad(strings.Fields(c.args), new(bytes.Buffer))
		if (err == nil) != c.ok || c.ok && p.duration != c.duration {
			t.Errorf("%q: %s %v", c.args, p.duration, err)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h, half histogram
	if h.quantile(0.5) != 0 {
		t.Error("a quantile of nothing")
	}
	for i := 1; i <= 10000; i++ {
		d := time.Duration(i) * time.Millisecond
		if i%2 == 0 {
			h.record(d)
		} else {
			half.record(d)
		}
	}
	h.add(&half)
	for share, want := range map[float64]time.Duration{0.5: 5 * time.Second, 0.9: 9 * time.Second, 0.99: 9900 * time.Millisecond, 1: 10 * time.Second} {
		if got := h.quantile(share); got < want || float64(got) > float64(want)*1.02 {
			t.Errorf("%g: %s, want %s", share, got, want)
		}
	}
	for d := time.Microsecond; d < 100*time.Hour; d += d/50 + time.Microsecond {
		i := bucketOf(d)
		if bucketTop(i) < d || i > 0 && bucketTop(i-1) >= d {
			t.Fatalf("%s is in bucket %d, which ends at %s", d, i, bucketTop(i))
		}
	}
	if bucketOf(-1) != 0 || bucketOf(1<<63-1) >= len(h.buckets) {
		t.Error("extremes leave the histogram")
	}
}

func TestErrorText(t *testing.T) {
	op := &net.OpError{Op: "read", Net: "tcp", Addr: &net.TCPAddr{Port: 1234}, Err: errors.New("reset")}
	for err, want := range map[error]string{
		&url.Error{Op: "Get", URL: "http://x/", Err: op}:                      "read: reset",
		&url.Error{Op: "Get", URL: "http://x/", Err: os.ErrDeadlineExceeded}:  "timeout",
		&url.Error{Op: "Get", URL: "http://x/", Err: errors.New("malformed")}: "malformed",
		errors.New("plain"): "plain",
	} {
		if got := errorText(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
	tl := newTally()
	for i := range 1000 {
		tl.record(0, 0, fmt.Errorf("error %d", i))
	}
	if len(tl.outcomes) > maxOutcomes+1 || tl.failed != 1000 {
		t.Errorf("%d outcomes", len(tl.outcomes))
	}
}
