package machine

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// Relay accepts on l until it is closed and joins each connection with one
// that dial makes. It returns when every connection has ended.
func Relay(l net.Listener, dial func(context.Context) (net.Conn, error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			join(ctx, c, dial)
		})
	}
}

func join(ctx context.Context, c net.Conn, dial func(context.Context) (net.Conn, error)) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	up, err := dial(ctx)
	if err != nil {
		if tc, ok := c.(*net.TCPConn); ok {
			_ = tc.SetLinger(0) // nobody there: say so with a reset
		}
		return
	}
	defer up.Close()
	var wg sync.WaitGroup
	half := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if t, ok := dst.(*net.TCPConn); ok && err == nil {
			_ = t.CloseWrite() // the other direction may go on
			return
		}
		dst.Close()
		src.Close()
	}
	wg.Go(func() { half(up, c) })
	half(c, up)
	wg.Wait()
}

// Dial connects to a port of a workload from inside it: on localhost, or on
// the pod's address for a gateway.
func (r *Room) Dial(ctx context.Context, workload string, port int) (net.Conn, error) {
	p, err := r.find(workload)
	if err != nil {
		return nil, err
	}
	return p.dial(ctx, port)
}

// DialLocal connects to localhost inside the workload's network: the sidecar's
// admin port.
func (r *Room) DialLocal(ctx context.Context, workload string, port int) (net.Conn, error) {
	p, err := r.find(workload)
	if err != nil {
		return nil, err
	}
	return p.ns.dial(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
