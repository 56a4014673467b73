package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/header"
)

// A response that arrives in one piece, head, body and trailers, is passed on
// as it was.
func TestWholeResponseAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	value := strings.Repeat("ab+CD/9", 40)
	answer := func(s *h2.Stream) {
		defer s.Close()
		for {
			if _, done, err := s.Next(); done || err != nil {
				break
			}
		}
		head := &header.Head{Status: 200}
		head.Fields.Add("content-type", "application/grpc")
		s.WriteHead(head, false)
		s.WriteData([]byte("body"), false)
		s.WriteTrailers([]header.Field{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}, {Name: "endpoint-load-metrics-bin", Value: value[:70]}})
		s.Flush()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h2.NewConn(c, h2.Options{Server: true, Handler: func(s *h2.Stream) { go answer(s) }}).Serve()
		}
	}()
	m, client := newMeshOver(t, hops{"http2", "http2", "http2"}, http.NotFoundHandler(), func(m *mesh) {
		m.snapB.Clusters[0].Endpoints.Endpoints[0].Address = l.Addr().String()
	})
	for i := range 200 {
		resp, err := client.Post(m.url+fmt.Sprintf("/?i=%d", i), "application/grpc", strings.NewReader("x"))
		if err != nil {
			t.Fatal(i, err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != "body" {
			t.Fatal(i, string(b), err)
		}
		if got := resp.Trailer.Get("endpoint-load-metrics-bin"); got != value[:70] || resp.Trailer.Get("grpc-status") != "0" {
			t.Fatalf("%d: %q", i, resp.Trailer)
		}
	}
}
