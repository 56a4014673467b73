package h2

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
)

// pair is our client against our server, which answers with body from workers
// that exist already.
func pair(t testing.TB, workers int, body []byte, wrap func(a, b net.Conn) (net.Conn, net.Conn)) *Conn {
	a, b := pipe(t)
	if wrap != nil {
		a, b = wrap(a, b)
	}
	work := make(chan *Stream, 1000)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var res header.Head
			for s := range work {
				res.Reset()
				res.Status, res.Framing, res.Length = 200, header.Length, int64(len(body))
				res.Fields.Add("content-type", "application/json")
				res.Fields.Add("server", "istio-envoy")
				res.Fields.Add("date", "Tue, 24 Nov 2026 19:00:00 GMT")
				s.WriteHead(&res, false)
				s.WriteData(body, true)
				s.Flush()
				s.Close()
			}
		})
	}
	server := NewConn(b, Options{Server: true, Handler: func(s *Stream) { work <- s }})
	client := NewConn(a, Options{})
	t.Cleanup(func() { close(work); wg.Wait() })
	serve(t, server)
	serve(t, client)
	return client
}

// roundTrip is one request; h and req are the caller's scratch.
func roundTrip(t testing.TB, c *Conn, req, h *header.Head) {
	s, err := c.Open()
	if err != nil {
		t.Error(err)
		return
	}
	s.SetReadBy(time.Now().Add(15*time.Second), time.Second)
	if err := s.WriteHead(req, true); err != nil {
		t.Error(err)
	}
	s.Flush()
	if err := s.ReadHead(h); err != nil || h.Status != 200 {
		t.Error(h.Status, err)
	}
	n := 0
	for {
		b, done, err := s.Next()
		n += len(b)
		if err != nil {
			t.Error(err)
		}
		if done || err != nil {
			break
		}
	}
	if int64(n) != h.Length {
		t.Error("body of", n)
	}
	s.Close()
}

func sample() *header.Head {
	req := request("GET", "/api/items?limit=20", false)
	for _, f := range []header.Field{
		{Name: "user-agent", Value: "curl/8"}, {Name: "accept", Value: "*/*"}, {Name: "x-forwarded-proto", Value: "http"},
		{Name: "x-request-id", Value: "7ab2d3a0-1111-4222-8333-123456789012"}, {Name: "x-envoy-attempt-count", Value: "1"},
	} {
		req.Fields.Add(f.Name, f.Value)
	}
	return req
}

// TestRoundTripDoesNotAllocate counts both sides and every goroutine: a
// request and its response on a connection in use.
func TestRoundTripDoesNotAllocate(t *testing.T) {
	c := pair(t, 4, bytes.Repeat([]byte("x"), 1024), nil)
	req, h := sample(), &header.Head{}
	for range 100 {
		roundTrip(t, c, req, h)
	}
	if n := testing.AllocsPerRun(500, func() { roundTrip(t, c, req, h) }); n > 0 {
		t.Errorf("%v allocations per request", n)
	}
}

func BenchmarkPair(b *testing.B) {
	for _, bb := range []struct {
		name string
		tls  bool
	}{{"plain", false}, {"tls", true}} {
		b.Run(bb.name, func(b *testing.B) {
			var wrap func(x, y net.Conn) (net.Conn, net.Conn)
			if bb.tls {
				wrap = overTLS
			}
			c := pair(b, 16, bytes.Repeat([]byte("x"), 1024), wrap)
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			for range 16 {
				wg.Go(func() {
					req, h := sample(), &header.Head{}
					for left.Add(-1) >= 0 {
						roundTrip(b, c, req, h)
					}
				})
			}
			wg.Wait()
		})
	}
}

func overTLS(a, b net.Conn) (net.Conn, net.Conn) {
	conf := testCertificate()
	return tls.Client(a, &tls.Config{InsecureSkipVerify: true}), tls.Server(b, conf)
}
