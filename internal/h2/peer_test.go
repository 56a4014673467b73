//lint:file-ignore SA1019 the deprecated API is the stock peer that these tests are about

package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/header"
)

// pipe returns two ends of a TCP connection.
func pipe(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	b = <-accepted
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// serve runs a connection until the test ends and waits for it.
func serve(t testing.TB, c *Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Serve()
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
}

// echo answers every request with its own body, its trailers and what it saw.
func echo(s *Stream) {
	defer s.Close()
	req := s.Head()
	if req.Expect100 {
		s.WriteHead(&header.Head{Status: 100}, false)
		s.Flush()
	}
	res := header.Head{Status: 200, Framing: header.Open}
	res.Fields.Add("x-method", req.Method)
	res.Fields.Add("x-path", req.Path)
	res.Fields.Add("x-host", req.Host)
	res.Fields.Add("x-framing", fmt.Sprint(req.Framing, req.Length))
	for _, f := range req.Fields.Fields {
		if strings.HasPrefix(f.Name, "x-") || f.Name == "cookie" {
			res.Fields.Add("got-"+f.Name, f.Value)
		}
	}
	if req.Framing == header.Length {
		res.Framing, res.Length = header.Length, req.Length
	}
	end := req.Framing == header.NoBody
	if s.WriteHead(&res, end) != nil {
		return
	}
	for !end {
		if !s.ReadyNow() {
			s.Flush()
		}
		b, done, err := s.Next()
		if err != nil {
			return
		}
		tr := s.Trailers()
		end = done
		if s.WriteData(b, done && len(tr) == 0) != nil {
			return
		}
		if done && len(tr) > 0 {
			s.WriteTrailers(tr)
		}
	}
	s.Flush()
}

// stockClient is net/http's client on our server.
func stockClient(t testing.TB, o Options) (*http.Client, *Conn) {
	a, b := pipe(t)
	o.Server = true
	if o.Handler == nil {
		o.Handler = func(s *Stream) { go echo(s) }
	}
	c := NewConn(b, o)
	serve(t, c)
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(context.Context, string, string, *tls.Config) (net.Conn, error) { return a, nil }}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, c
}

func TestStockClient(t *testing.T) {
	client, c := stockClient(t, Options{})
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB: several windows
	for _, tt := range []struct {
		name, method string
		body         []byte
		length       bool
		trailer      bool
	}{
		{"get", "GET", nil, true, false},
		{"head", "HEAD", nil, true, false},
		{"small", "POST", []byte("hello"), true, false},
		{"open", "POST", []byte("hello"), false, false},
		{"big", "PUT", big, true, false},
		{"big open with trailer", "POST", big, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var body io.Reader
			if tt.body != nil {
				body = bytes.NewReader(tt.body)
				if !tt.length {
					body = io.MultiReader(body)
				}
			}
			req, _ := http.NewRequest(tt.method, "http://mesh.test/a/b?c=d", body)
			req.Header.Set("X-One", "1")
			req.Header.Add("Cookie", "a=1; b=2")
			req.Header.Add("Authorization", "secret")
			if tt.trailer {
				req.Trailer = http.Header{"X-Sum": {"42"}}
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.method != "HEAD" && !bytes.Equal(got, tt.body) {
				t.Errorf("body: %d bytes, want %d", len(got), len(tt.body))
			}
			h := res.Header
			if h.Get("X-Method") != tt.method || h.Get("X-Path") != "/a/b?c=d" || h.Get("X-Host") != "mesh.test" || h.Get("Got-X-One") != "1" || h.Get("Got-Cookie") != "a=1; b=2" {
				t.Errorf("head: %v", h)
			}
			if tt.trailer && res.Trailer.Get("X-Sum") != "42" {
				t.Errorf("trailer: %v", res.Trailer)
			}
		})
	}
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

func TestStockClientConcurrent(t *testing.T) {
	client, c := stockClient(t, Options{})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 20 {
				want := strings.Repeat(fmt.Sprint(i, j, ";"), 1000)
				res, err := client.Post(fmt.Sprintf("http://mesh.test/%d/%d", i, j), "text/plain", strings.NewReader(want))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				if err != nil || string(got) != want {
					t.Errorf("%d %d: %v", i, j, err)
				}
			}
		})
	}
	wg.Wait()
	if s := c.Stats(); s != (Stats{}) {
		t.Errorf("stats: %+v", s)
	}
}

// stockServer is x/net/http2's server behind our client.
func stockServer(t testing.TB, h http.Handler) *Conn {
	a, b := pipe(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&http2.Server{}).ServeConn(b, &http2.ServeConnOpts{Handler: h})
	}()
	c := NewConn(a, Options{})
	serve(t, c)
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

func request(method, path string, body bool) *header.Head {
	h := &header.Head{Method: method, Path: path, Host: "mesh.test", Scheme: "http"}
	if body {
		h.Framing = header.Open
	}
	return h
}

func readAll(s *Stream) ([]byte, error) {
	var all []byte
	for {
		b, done, err := s.Next()
		all = append(all, b...)
		if done || err != nil {
			return all, err
		}
	}
}

func TestStockServer(t *testing.T) {
	c := stockServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(103)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Path", r.URL.Path)
		io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("x-in"))
	}))
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			s, err := c.Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			s.SetReadBy(time.Now().Add(30*time.Second), time.Second)
			req := request("POST", fmt.Sprintf("/%d", i), true)
			req.Fields.Add("trailer", "x-in")
			if err := s.WriteHead(req, false); err != nil {
				t.Error(err)
				return
			}
			s.Flush()
			var writer sync.WaitGroup
			writer.Go(func() {
				if err := s.WriteData(big, false); err != nil {
					t.Error(err)
				}
				s.WriteTrailers([]header.Field{{Name: "x-in", Value: "7"}})
				s.Flush()
			})
			var h header.Head
			for _, want := range []int{103, 200} {
				if err := s.ReadHead(&h); err != nil || h.Status != want {
					t.Error(h.Status, err)
				}
			}
			got, err := readAll(s)
			if err != nil || !bytes.Equal(got, big) {
				t.Error(len(got), err)
			}
			writer.Wait()
			if tr := s.Trailers(); len(tr) != 1 || tr[0].Value != "7" {
				t.Error(tr)
			}
			if h.Fields.First("x-path") != fmt.Sprintf("/%d", i) {
				t.Error(h.Fields)
			}
		})
	}
	wg.Wait()
}
