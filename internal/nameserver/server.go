package nameserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Limits on what the workload may have open at once.
const (
	maxPending     = 256 // queries that wait for other name servers
	maxConnections = 64  // over TCP
	idleTCP        = 10 * time.Second
)

// Options of a Server.
type Options struct {
	// Forward asks another name server over "udp" or "tcp"; see Upstreams.
	Forward func(ctx context.Context, network string, query []byte) ([]byte, error)
}

// Server is a name server. Its methods may be called from any goroutine.
type Server struct {
	opts    Options
	table   atomic.Pointer[table]
	pending chan struct{} // a token for each query that waits
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu   sync.Mutex // guards what follows
	udp  net.PacketConn
	tcp  net.Listener
	open map[net.Conn]bool
}

// New returns a server that listens to nothing yet.
func New(opts Options) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{opts: opts, pending: make(chan struct{}, maxPending), ctx: ctx, stop: stop, open: map[net.Conn]bool{}}
	s.table.Store(newTable(&ir.DNS{}))
	return s
}

// Apply puts a snapshot's names in force; without any, every query is asked of
// the others.
func (s *Server) Apply(snapshot *ir.Snapshot) {
	names := &ir.DNS{}
	for _, l := range snapshot.Listeners {
		if l.DNS != nil {
			names = l.DNS
		}
	}
	s.table.Store(newTable(names))
}

// Listen serves UDP and TCP on one address; call it once. With port 0 the
// address returned says which it is.
func (s *Server) Listen(at netip.AddrPort) (netip.AddrPort, error) {
	tcp, err := net.Listen("tcp", at.String())
	if err != nil {
		return at, fmt.Errorf("name server: %w", err)
	}
	at = tcp.Addr().(*net.TCPAddr).AddrPort()
	udp, err := net.ListenPacket("udp", at.String())
	if err != nil {
		tcp.Close()
		return at, fmt.Errorf("name server: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.udp, s.tcp = udp, tcp
	s.wg.Go(func() { s.serveUDP(udp) })
	s.wg.Go(func() { s.serveTCP(tcp) })
	return at, nil
}

// Close stops and waits for everything.
func (s *Server) Close() {
	s.stop()
	s.mu.Lock()
	if s.udp != nil {
		s.udp.Close()
		s.tcp.Close()
	}
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Server) serveUDP(conn net.PacketConn) {
	buf := make([]byte, maxUDP)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error about an earlier answer
		}
		q, err := parse(buf[:n])
		if err != nil {
			continue // whoever it is, it is no resolver
		}
		reply := func(msg []byte) {
			if msg != nil {
				_, _ = conn.WriteTo(msg, from) // the asker may have gone
			}
		}
		if msg := s.table.Load().answer(q, q.size); msg != nil {
			reply(msg)
			continue
		}
		raw := append([]byte(nil), buf[:n]...)
		if !s.begin() {
			reply(q.fail(dnsmessage.RCodeServerFailure))
			continue
		}
		s.wg.Go(func() {
			defer s.end()
			reply(s.forward("udp", q, raw))
		})
	}
}

// begin takes a place among the queries that wait; false: there is none.
func (s *Server) begin() bool {
	select {
	case s.pending <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Server) end() { <-s.pending }

// forward asks the workload's own name servers.
func (s *Server) forward(network string, q *query, raw []byte) []byte {
	msg, err := s.opts.Forward(s.ctx, network, raw)
	if err != nil {
		return q.fail(dnsmessage.RCodeServerFailure)
	}
	if network == "udp" && len(msg) > q.size {
		return q.truncated()
	}
	return msg
}

func (s *Server) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		s.mu.Lock()
		full := len(s.open) >= maxConnections || s.ctx.Err() != nil
		if !full {
			s.open[c] = true
		}
		s.mu.Unlock()
		if full {
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() {
				s.mu.Lock()
				delete(s.open, c)
				s.mu.Unlock()
				c.Close()
			}()
			s.converse(c)
		})
	}
}

// converse answers the queries of one connection, one after the other
// (RFC 7766 section 7 allows it), each with its length before it.
func (s *Server) converse(c net.Conn) {
	for {
		c.SetDeadline(time.Now().Add(idleTCP))
		raw, err := readMessage(c)
		if err != nil {
			return
		}
		q, err := parse(raw)
		if err != nil {
			return
		}
		msg := s.table.Load().answer(q, maxMessage)
		if msg == nil {
			if !s.begin() {
				msg = q.fail(dnsmessage.RCodeServerFailure)
			} else {
				msg = s.forward("tcp", q, raw)
				s.end()
			}
		}
		if msg == nil || writeMessage(c, msg) != nil {
			return
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeMessage(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}
