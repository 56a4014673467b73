package proxy

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// pollFD asks for hang-up only, so that bytes the peer has sent meanwhile do
// not hide that it has left.
func (d *downstream) pollFD(fd uintptr) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(p, 0); err == nil && n > 0 {
		d.gone = p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	}
}

// originalDst reads where a connection was going before nftables redirected
// it (SO_ORIGINAL_DST; the IPv6 option has the same number).
func originalDst(conn net.Conn) (netip.AddrPort, bool) {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, false
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, false
	}
	var dst netip.AddrPort
	v4 := addrPort(c.LocalAddr()).Addr().Is4()
	_ = rc.Control(func(fd uintptr) {
		if v4 {
			// IPv6Mreq is the option that is large enough to hold a sockaddr_in.
			var m *unix.IPv6Mreq
			if m, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
				b := m.Multiaddr
				dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
			}
			return
		}
		var m *unix.IPv6MTUInfo
		if m, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST); err == nil {
			port := m.Addr.Port // network byte order
			dst = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), port<<8|port>>8)
		}
	})
	return dst, err == nil && dst.IsValid()
}
