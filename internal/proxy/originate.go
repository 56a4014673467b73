package proxy

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

const (
	never         = 10 * 365 * 24 * time.Hour // an idle timeout that was switched off
	tunnelTimeout = 30 * time.Second
	tunnelHead    = 16 << 10 // of the forward proxy's answer
)

// hash of a connection: Istio hashes TCP by its source address only.
func (s *tcpSession) hash() upstream.Hash {
	if !s.chain.TCP.HashSourceIP {
		return upstream.Hash{}
	}
	return upstream.HashOf(s.remote.Addr().String())
}

// dial connects to the host, through the tunnel if there is one.
func (s *tcpSession) dial(h *upstream.Host) (*upstream.Conn, error) {
	up, err := s.cluster.Dial(h, time.Time{}, s.origin())
	if err != nil || s.chain.TCP.Tunnel == nil {
		return up, err
	}
	if err := openTunnel(up, s.chain.TCP.Tunnel); err != nil {
		up.Close()
		return nil, fmt.Errorf("tunnel to %s: %w", s.chain.TCP.Tunnel.Target, err)
	}
	return up, nil
}

// openTunnel asks a forward proxy to connect us (RFC 9110 section 9.3.6). What
// the far side sends right behind the answer stays readable.
func openTunnel(up *upstream.Conn, t *ir.Tunnel) error {
	if err := up.SetDeadline(time.Now().Add(tunnelTimeout)); err != nil {
		return err
	}
	if _, err := up.Write([]byte("CONNECT " + t.Target + " HTTP/1.1\r\nHost: " + t.Target + "\r\n\r\n")); err != nil {
		return err
	}
	// Byte by byte, so that nothing behind the head is taken: tunnels are few
	// and their answers short.
	one := &oneByte{Conn: up.Conn, left: tunnelHead}
	resp, err := http.ReadResponse(bufio.NewReaderSize(one, 16), &http.Request{Method: "CONNECT"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the forward proxy answers %s", strings.TrimSpace(resp.Status))
	}
	return up.SetDeadline(time.Time{})
}

// oneByte reads single bytes, and only so many.
type oneByte struct {
	net.Conn
	left int
}

func (o *oneByte) Read(b []byte) (int, error) {
	if o.left == 0 {
		return 0, fmt.Errorf("its answer is longer than %d bytes", tunnelHead)
	}
	o.left--
	return o.Conn.Read(b[:min(len(b), 1)])
}
