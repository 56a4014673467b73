package load

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// Sink is a TCP server that reads until the peer half-closes and then says
// with one byte that it has everything.
type Sink struct {
	listener net.Listener
	done     chan struct{}
}

// NewSink listens on address.
func NewSink(address string) (*Sink, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &Sink{l, make(chan struct{})}
	go s.accept()
	return s, nil
}

func (s *Sink) accept() {
	defer close(s.done)
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		go func() { // ends with the peer
			defer c.Close()
			if _, err := io.CopyBuffer(io.Discard, onlyReader{c}, make([]byte, 256<<10)); err == nil {
				_, _ = c.Write([]byte{'.'}) // a peer that has left does not read it
			}
		}()
	}
}

// onlyReader hides ReadFrom and WriteTo, which choose buffers of their own.
type onlyReader struct{ io.Reader }

// Close stops accepting.
func (s *Sink) Close() {
	s.listener.Close()
	<-s.done
}

// Streams sends bytes over n connections, bytes in all, and returns how long
// it took until the sink had them.
func Streams(ctx context.Context, address string, n int, bytes int64) (time.Duration, error) {
	conns := make([]*net.TCPConn, n)
	for i := range conns {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		conns[i] = c.(*net.TCPConn)
	}
	start := time.Now()
	err := each(n, func(i int) error { return send(conns[i], bytes/int64(n)) })
	return time.Since(start), err
}

func send(c *net.TCPConn, bytes int64) error {
	buf := make([]byte, 256<<10)
	for bytes > 0 {
		n, err := c.Write(buf[:min(bytes, int64(len(buf)))])
		if err != nil {
			return err
		}
		bytes -= int64(n)
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	var ack [1]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil {
		return fmt.Errorf("not everything arrived: %w", err)
	}
	return nil
}
