//go:build !linux

package proxy

import (
	"net"
	"net/netip"
)

func (d *downstream) pollFD(uintptr) {}

// originalDst exists on Linux only; elsewhere listeners are reached directly.
func originalDst(net.Conn) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
