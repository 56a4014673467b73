//go:build linux && (amd64 || arm64)

package wire

import (
	"syscall"
	"unsafe"
)

const supported = true

// recvFD reads once; false: wait until the socket is readable. Sockets of net
// are non-blocking, so that the call returns at once.
func (c *Conn) recvFD(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(c.in))), uintptr(len(c.in)), 0, 0, 0)
		switch errno {
		case 0:
			c.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			c.inErr = errno
			return true
		}
	}
}

// peekFD reports whether a read would return at once.
func peekFD(fd uintptr) bool {
	var b [1]byte
	for {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK, 0, 0)
		if errno != syscall.EINTR {
			return errno != syscall.EAGAIN
		}
	}
}

// sendFD writes what the socket takes; false: wait until it takes more.
func (c *Conn) sendFD(fd uintptr) bool {
	for len(c.out) > 0 {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(c.out))), uintptr(min(len(c.out), maxSend)), syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			c.out = c.out[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			c.outErr = errno
			return true
		}
	}
	return true
}

// maxSend bounds one call, because nothing else runs on its processor
// meanwhile: copying this much takes some ten microseconds.
const maxSend = 128 << 10
