package wire

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a TCP connection, the first one wrapped.
func pair(t testing.TB) (net.Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return Wrap(a), b.(*net.TCPConn)
}

// More than the socket's buffers hold goes through both ways at once, in
// pieces, unchanged.
func TestEverythingArrives(t *testing.T) {
	c, peer := pair(t)
	want := make([]byte, 8<<20)
	rand.Read(want)
	go io.Copy(peer, peer) // echo, until we half-close
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		wrote <- err
	}()
	var got bytes.Buffer
	if n, err := io.CopyN(&got, c, int64(len(want))); err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Fatal("what came back is not what was sent")
	}
}

func TestErrorsAreThoseOfNet(t *testing.T) {
	t.Run("end", func(t *testing.T) {
		c, peer := pair(t)
		peer.CloseWrite()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v, want EOF", err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		c, _ := pair(t)
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v, want a timeout", err)
		}
		// A deadline in the past is obeyed though bytes are there, as with net.
		c.SetReadDeadline(time.Unix(1, 0))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want a timeout", err)
		}
	})
	t.Run("write deadline", func(t *testing.T) {
		c, _ := pair(t)
		c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := c.Write(make([]byte, 64<<20)) // nobody reads
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 64<<20 {
			t.Errorf("%d, %v: want part of it and a timeout", n, err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		c, peer := pair(t)
		peer.SetLinger(0)
		peer.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want ECONNRESET", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%v, want EPIPE", err)
		}
	})
	t.Run("closed by somebody else", func(t *testing.T) {
		c, _ := pair(t)
		failed := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			failed <- err
		}()
		c.Close()
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	})
}

func TestNoAllocation(t *testing.T) {
	c, peer := pair(t)
	b := make([]byte, 16)
	if n := testing.AllocsPerRun(100, func() {
		c.Write(b)
		io.ReadFull(peer, b)
		peer.Write(b)
		io.ReadFull(c, b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWrapLeavesOthersAlone(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
}
