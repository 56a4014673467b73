// Package wire moves bytes through TCP sockets at the price of the system
// call alone.
//
// net.Conn announces every read and write to the Go scheduler as something that
// may block. On a non-blocking socket nothing blocks, but the announcement has
// a price: the scheduler's monitor thread sees a processor "in a system call",
// wakes every 20 µs to look after it and hands the processor to another thread
// when it happens to look during a long write. In a busy sidecar that was a
// tenth of the CPU time. Conn makes the same calls without announcing them and
// waits for readiness in the runtime's poller as before.
package wire

import (
	"io"
	"net"
	"os"
	"syscall"
)

// Conn is a TCP connection. Unlike with net.TCPConn at most one goroutine may
// read and at most one may write at a time; the other methods may be called by
// anybody.
type Conn struct {
	*net.TCPConn
	raw  syscall.RawConn
	recv func(fd uintptr) bool // allocated once
	send func(fd uintptr) bool

	in    []byte // of the Read in progress
	n     int
	inErr syscall.Errno

	out    []byte // of the Write in progress: what is still to go
	outErr syscall.Errno
}

// Wrap returns a Conn over c where that is possible, and c itself elsewhere.
func Wrap(c net.Conn) net.Conn {
	tc, ok := c.(*net.TCPConn)
	if !ok || !supported {
		return c
	}
	raw, err := tc.SyscallConn()
	if err != nil { // closed; Read and Write will say so
		return c
	}
	s := &Conn{TCPConn: tc, raw: raw}
	s.recv, s.send = s.recvFD, s.sendFD
	return s
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.in, c.n, c.inErr = b, 0, 0
	err := c.raw.Read(c.recv)
	c.in = nil
	switch {
	case err != nil: // closed, or past the deadline
		return 0, err
	case c.inErr != 0:
		return 0, c.failed("read", c.inErr)
	case c.n == 0:
		return 0, io.EOF
	}
	return c.n, nil
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	c.out, c.outErr = b, 0
	err := c.raw.Write(c.send)
	n := len(b) - len(c.out)
	c.out = nil
	if err == nil && c.outErr != 0 {
		err = c.failed("write", c.outErr)
	}
	return n, err
}

// Await waits until something can be read, the end or an error included, and
// takes nothing. Unlike a Read that waits it needs no buffer meanwhile.
func (c *Conn) Await() error { return c.raw.Read(peekFD) }

// ReadFrom hides TCPConn's, which would read and write past us.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(writer{c}, r) }

// WriteTo likewise.
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, reader{c}) }

type writer struct{ io.Writer }
type reader struct{ io.Reader }

// failed words an error as net does.
func (c *Conn) failed(op string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
}
