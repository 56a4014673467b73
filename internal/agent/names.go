package agent

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/nameserver"
)

// serveNames opens the sidecar's name server, before there is a configuration:
// the workload's queries are redirected from the start. nil on a gateway.
func serveNames(opts Options) (*nameserver.Server, error) {
	if opts.Ports.DNS == 0 || opts.Node.Type == ir.Router {
		return nil, nil
	}
	servers, err := nameserver.ReadServers("/etc/resolv.conf")
	if err != nil {
		opts.Log.Warn("only names of the mesh resolve", "err", err)
	}
	dialer := &net.Dialer{}
	if opts.Mark != 0 {
		dialer.Control = func(_, _ string, rc syscall.RawConn) error {
			var failed error
			if err := rc.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, opts.Mark) }); err != nil {
				return err
			}
			return failed
		}
	}
	up := &nameserver.Upstreams{Servers: servers, Dial: dialer.DialContext}
	s := nameserver.New(nameserver.Options{Forward: up.Ask})
	_, err = s.Listen(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(opts.Ports.DNS)))
	return s, err
}
