package meshtest

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/nettest"
)

// The connections of the network in memory behave as net.Conn demands.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		n := newNetwork()
		a, b := n.host("a", netip.MustParseAddr("10.244.0.1")), n.host("b", netip.MustParseAddr("10.244.0.2"))
		at := netip.MustParseAddrPort("10.244.0.2:80")
		l, err := b.listen(at)
		if err != nil {
			return nil, nil, nil, err
		}
		c1, err := a.dial(t.Context(), at)
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err := l.Accept()
		return c1, c2, func() { n.closeAll(); l.Close() }, err
	})
}
