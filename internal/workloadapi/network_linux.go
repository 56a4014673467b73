package workloadapi

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ownListener accepts processes of one network namespace only.
type ownListener struct {
	net.Listener
	own string
}

func sameNetwork(l net.Listener) (net.Listener, error) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("workload API: %w", err)
	}
	return &ownListener{l, own}, nil
}

// Accept implements net.Listener. Strangers are closed unheard.
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if network(c) == l.own {
			return c, nil
		}
		c.Close()
	}
}

// network is the namespace of the process that connected; "" if it cannot be
// told.
func network(c net.Conn) string {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ""
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ""
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cred.Pid))
	if err != nil {
		return ""
	}
	return ns
}
