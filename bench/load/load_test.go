package load

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestHistogramQuantiles(t *testing.T) {
	var a, b Histogram
	for i := 1; i <= 500; i++ {
		a.Record(time.Duration(i) * time.Millisecond)
		b.Record(time.Duration(500+i) * time.Millisecond)
	}
	a.Add(&b)
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := a.Quantile(q); got < want || float64(got) > float64(want)*(1+1.0/32) {
			t.Errorf("quantile %v = %v, want %v", q, got, want)
		}
	}
	if a.Count() != 1000 {
		t.Errorf("count %d", a.Count())
	}
	var zero Histogram
	if zero.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
}

// Every value must lie in the bucket whose upper end is the next at or above it.
func TestBucketsCoverEveryValue(t *testing.T) {
	for v := uint64(0); v < 1<<40; v = v*9/8 + 1 {
		i := bucket(v)
		if top(i) < v || i > 0 && top(i-1) >= v {
			t.Fatalf("%d is in bucket %d, which ends at %d after %d", v, i, top(i), top(i-1))
		}
	}
}

// A server that stands still is charged for what should have been sent
// meanwhile.
func TestOpenLoopCountsWhatHadToWait(t *testing.T) {
	var n atomic.Int64
	stalled := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			time.AfterFunc(300*time.Millisecond, func() { close(stalled) })
		}
		<-stalled
		w.Write([]byte("x"))
	}))
	defer s.Close()
	h, err := OpenLoop{Address: s.Listener.Addr().String(), Rate: 100, Conns: 1, Duration: 400 * time.Millisecond}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if h.Count() != 40 {
		t.Errorf("%d requests, want 40", h.Count())
	}
	// With omission only the first would have been slow.
	if p := h.Quantile(0.4); p < 50*time.Millisecond {
		t.Errorf("p40 is %v: the wait is not counted", p)
	}
}

func TestOpenLoopReportsFailures(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	if _, err := (OpenLoop{Address: s.Listener.Addr().String(), Rate: 100, Conns: 2, Duration: 50 * time.Millisecond}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("err = %v", err)
	}
}

func TestStreamsArriveWhole(t *testing.T) {
	s, err := NewSink("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Streams(t.Context(), s.listener.Addr().String(), 4, 4<<20); err != nil {
		t.Error(err)
	}
	// A peer that cuts the stream is not taken for success.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	if _, err := Streams(t.Context(), l.Addr().String(), 1, 1<<20); err == nil {
		t.Error("a cut stream counts as sent")
	}
}

func TestUnaryCalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	s, err := NewUnaryServer(address)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h, err := Unary(t.Context(), address, 9, 50*time.Millisecond)
	if err != nil || h.Count() < 9 {
		t.Errorf("%d calls, %v", h.Count(), err)
	}
}

func TestSkipResponse(t *testing.T) {
	read := func(s string) error { return skipResponse(bufio.NewReader(strings.NewReader(s))) }
	if err := read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi"} {
		if read(s) == nil {
			t.Errorf("%q counts as an answer", s)
		}
	}
}
