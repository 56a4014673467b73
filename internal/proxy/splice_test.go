package proxy

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// halfClosed has been half-closed by its peer, which may still read.
type halfClosed struct{ net.Conn }

func (halfClosed) Read([]byte) (int, error) { return 0, io.EOF }
func (halfClosed) CloseWrite() error        { return nil }

// halfCloser can be half-closed.
type halfCloser struct{ net.Conn }

func (halfCloser) CloseWrite() error { return nil }

// A caller that has ended its half and does not read any more is idle too,
// although no direction waits to read.
func TestSpliceIdlesWhileItWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		caller, down := net.Pipe()
		up, server := net.Pipe()
		defer caller.Close()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			splice(halfClosed{down}, halfCloser{up}, time.Minute, nil)
		}()
		if _, err := server.Write([]byte("nobody reads this")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		select {
		case <-ended:
			if took := time.Since(start); took != time.Minute {
				t.Errorf("ended after %s", took)
			}
		case <-time.After(time.Hour):
			t.Error("still there after an hour")
		}
	})
}

// The deadlines of the request that opened a session are not the session's.
func TestSpliceForgetsDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		caller, down := net.Pipe()
		up, server := net.Pipe()
		down.SetDeadline(time.Now().Add(time.Minute))
		up.SetDeadline(time.Now().Add(time.Minute))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			splice(down, up, time.Hour, nil)
		}()
		<-time.After(2 * time.Minute)
		for from, to := range map[net.Conn]net.Conn{caller: server, server: caller} {
			go from.Write([]byte("x"))
			if _, err := to.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		caller.Close()
		server.Close()
		<-ended
	})
}
