package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// Handshakes opens connections one after the other on each of Workers, sends
// one request on each and closes it.
type Handshakes struct {
	Address string
	TLS     *tls.Config // without session cache
	// Resume: the first connection of a worker does the full handshake, the
	// following ones present the ticket of the one before.
	Resume   bool
	Workers  int
	Duration time.Duration
}

// Run returns how many connections were made and how long it took.
func (o Handshakes) Run(ctx context.Context) (int64, time.Duration, error) {
	var made atomic.Int64
	start := time.Now()
	err := each(o.Workers, func(int) error {
		conf := o.TLS.Clone()
		conf.ServerName = "server"
		if o.Resume {
			conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
		for i := 0; time.Since(start) < o.Duration; i++ {
			resumed, err := o.connect(ctx, conf)
			if err != nil {
				return err
			}
			if want := o.Resume && i > 0; resumed != want {
				return fmt.Errorf("connection %d: resumed is %v", i, resumed)
			}
			made.Add(1)
		}
		return nil
	})
	return made.Load(), time.Since(start), err
}

func (o Handshakes) connect(ctx context.Context, conf *tls.Config) (resumed bool, err error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return false, err
	}
	defer raw.Close()
	_ = raw.(*net.TCPConn).SetLinger(0) // no TIME_WAIT: the ports would run out
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		return false, err
	}
	// TLS 1.3 tickets come after the handshake: they are read with the answer.
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: server\r\n\r\n")); err != nil {
		return false, err
	}
	if err := skipResponse(bufio.NewReader(c)); err != nil {
		return false, fmt.Errorf("answer: %w", err)
	}
	return c.ConnectionState().DidResume, nil
}
