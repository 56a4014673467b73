package upstream

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Source is where a downstream connection came from and where it was going,
// for clusters that announce it (PROXY protocol).
type Source struct{ From, To netip.AddrPort }

// proxySignature begins a version 2 header.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// appendProxyHeader appends the PROXY protocol header of the version; unknown
// or mixed address families are announced as unknown (V1) or local (V2).
func appendProxyHeader(b []byte, version string, s Source) []byte {
	from, to := s.From.Addr().Unmap(), s.To.Addr().Unmap()
	known := from.IsValid() && to.IsValid() && from.Is4() == to.Is4()
	if version == "V2" {
		return appendProxyV2(b, known, from, to, s)
	}
	if !known {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	b = append(b, "PROXY TCP6 "...)
	if from.Is4() {
		b[len(b)-2] = '4'
	}
	b = append(from.AppendTo(b), ' ')
	b = append(to.AppendTo(b), ' ')
	b = strconv.AppendUint(b, uint64(s.From.Port()), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(s.To.Port()), 10)
	return append(b, "\r\n"...)
}

func appendProxyV2(b []byte, known bool, from, to netip.Addr, s Source) []byte {
	const local, proxied, tcp4, tcp6 = 0x20, 0x21, 0x11, 0x21
	b = append(b, proxySignature...)
	if !known {
		return append(b, local, 0, 0, 0)
	}
	family, length := byte(tcp6), uint16(36)
	if from.Is4() {
		family, length = tcp4, 12
	}
	b = append(b, proxied, family)
	b = binary.BigEndian.AppendUint16(b, length)
	b = append(b, from.AsSlice()...)
	b = append(b, to.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, s.From.Port())
	return binary.BigEndian.AppendUint16(b, s.To.Port())
}

// sourceKey carries a Source to the connection that is being made.
type sourceKey struct{}

type announcement struct {
	version string
	Source
}

// announce writes the header that ctx asks for before anything else.
func announce(ctx context.Context, conn net.Conn) error {
	a, ok := ctx.Value(sourceKey{}).(announcement)
	if !ok {
		return nil
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write(appendProxyHeader(nil, a.version, a.Source)); err != nil {
		return err
	}
	return conn.SetWriteDeadline(time.Time{})
}

// Dial opens a connection outside the pool for protocols other than HTTP (TCP
// proxying, an external authorizer); Close returns its place. from is announced
// to the upstream if the cluster asks for it.
func (c *Cluster) Dial(h *Host, deadline time.Time, from Source) (*Conn, error) {
	if !c.claim(h) {
		return nil, ErrOverflow
	}
	version := c.conf.Load().ProxyProtocol
	if version == "" {
		return c.dial(h, deadline, false)
	}
	ctx, cancel := c.dialContext(deadline)
	defer cancel()
	conn, err := c.connect(context.WithValue(ctx, sourceKey{}, announcement{version, from}), h, false)
	if err != nil {
		c.unclaim(h)
		c.stats.connectFail.Add(1)
		return nil, err
	}
	c.stats.connections.Add(1)
	conn.announced = true
	return conn, nil
}

// AcquireFor is Acquire for a request of one downstream connection. Where the
// cluster announces that, connections cannot be shared: each request gets one
// of its own, and that speaks HTTP/1.1.
func (c *Cluster) AcquireFor(from Source, h *Host, want Want) (Carrier, error) {
	if c.conf.Load().ProxyProtocol == "" {
		return c.Acquire(h, want)
	}
	conn, err := c.Dial(h, want.Deadline, from)
	if err != nil {
		return nil, err
	}
	return conn, nil
}
