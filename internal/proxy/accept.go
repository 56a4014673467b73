package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// socket is one listening address with its accept loop. It lives as long as
// snapshots want the address, whatever the listener's configuration becomes.
type socket struct {
	net.Listener
	address netip.AddrPort // as configured
	done    chan struct{}
	started bool
}

func (s *socket) start(p *Proxy) {
	s.started = true
	go s.accept(p)
}

// accept runs until the socket is closed.
func (s *socket) accept(p *Proxy) {
	defer close(s.done)
	for {
		raw, err := s.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.stats.acceptErrors.Add(1)
			p.log.Warn("accept failed", "address", s.address, "err", err)
			time.Sleep(acceptRetry)
			continue
		}
		if p.overload.connections.Load() {
			p.stats.connectionsOverload.Add(1)
			raw.Close()
			continue
		}
		d := newDownstream(p, s.address, raw)
		if !p.conns.add(d, p.opts.MaxConnections) {
			p.stats.connectionsShed.Add(1)
			raw.Close()
			continue
		}
		go p.serve(d, nil)
	}
}

// close stops the accept loop and waits for it.
func (s *socket) close() {
	s.Listener.Close()
	if s.started {
		<-s.done
	}
}

// connections are the downstream connections being served.
type connections struct {
	mu    sync.Mutex
	all   map[*downstream]struct{}
	empty chan struct{} // closed when the last one goes; made by wait
}

// add refuses beyond limit.
func (cs *connections) add(d *downstream, limit int) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.all) >= limit {
		return false
	}
	if cs.all == nil {
		cs.all = map[*downstream]struct{}{}
	}
	cs.all[d] = struct{}{}
	return true
}

func (cs *connections) remove(d *downstream) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.all, d)
	if len(cs.all) == 0 && cs.empty != nil {
		close(cs.empty)
		cs.empty = nil
	}
}

// each calls f for every connection, without the lock.
func (cs *connections) each(f func(*downstream)) {
	cs.mu.Lock()
	all := make([]*downstream, 0, len(cs.all))
	for d := range cs.all {
		all = append(all, d)
	}
	cs.mu.Unlock()
	for _, d := range all {
		f(d)
	}
}

func (cs *connections) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.all)
}

// wait reports whether every connection ended before ctx did.
func (cs *connections) wait(ctx context.Context) bool {
	cs.mu.Lock()
	if len(cs.all) == 0 {
		cs.mu.Unlock()
		return true
	}
	if cs.empty == nil {
		cs.empty = make(chan struct{})
	}
	empty := cs.empty
	cs.mu.Unlock()
	select {
	case <-empty:
		return true
	case <-ctx.Done():
		return false
	}
}
