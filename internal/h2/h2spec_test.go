package h2

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/test/h2spec"
)

// listen serves every connection with our server until the test ends.
func listen(t testing.TB, o Options) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[*Conn]bool{}
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := NewConn(nc, o)
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				c.Serve()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// page reads the request and answers it with five bytes.
func page(s *Stream) {
	defer s.Close()
	for done := s.Complete(); !done; {
		var err error
		if _, done, err = s.Next(); err != nil {
			return
		}
	}
	if s.WriteHead(&header.Head{Status: 200, Framing: header.Length, Length: 5}, false) == nil && s.WriteData([]byte("hello"), true) == nil {
		s.Flush()
	}
}

func TestH2Spec(t *testing.T) {
	addr := listen(t, Options{Server: true, Handler: func(s *Stream) { go page(s) }})
	h2spec.Run(t, h2spec.Options{Addr: addr, Timeout: 500 * time.Millisecond})
}
