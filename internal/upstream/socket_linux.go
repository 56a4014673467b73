package upstream

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func setMark(fd, mark int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark)
}

func setKeepalive(fd int, k *ir.Keepalive) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
		return err
	}
	for _, o := range []struct {
		name  int
		value int
	}{
		{unix.TCP_KEEPCNT, int(k.Probes)},
		{unix.TCP_KEEPIDLE, int(k.Time.D().Seconds())},
		{unix.TCP_KEEPINTVL, int(k.Interval.D().Seconds())},
	} {
		if o.value > 0 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, o.name, o.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// peekFD looks for data or an end without taking it: EAGAIN is the good answer.
func (c *Conn) peekFD(fd uintptr) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	c.alive = err == syscall.EAGAIN || err == syscall.EINTR
	return true
}
