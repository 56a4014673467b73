package proxy

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

const (
	maxMirrors   = 1024      // copies in flight; further ones are dropped
	mirrorWindow = 256 << 10 // of one copy's body that waits for its upstream
	mirrorMemory = 16 << 20  // the same, of all copies
)

// mirrors owns the copies of requests on their way to mirror clusters. A copy
// never delays or fails the request it was made of: what its upstream does not
// take in time is dropped and counted.
type mirrors struct {
	mu     sync.Mutex
	active map[*mirror]struct{} // guarded by mu
	closed bool                 // guarded by mu

	running sync.WaitGroup
	waiting atomic.Int64 // bytes of bodies

	total, dropped, failed telemetry.Counter
}

// mirror is one copy. The exchange feeds it, its own goroutine sends it.
type mirror struct {
	set     *mirrors
	cluster *upstream.Cluster
	head    header.Head
	intro   string
	http2   bool          // what the request came with
	limit   time.Duration // for the response's head; 0: none

	mu       sync.Mutex
	pending  []byte           // guarded by mu
	trailers []header.Field   // guarded by mu
	done     bool             // guarded by mu: the body is all here
	broken   bool             // guarded by mu: the copy is given up
	up       upstream.Carrier // guarded by mu, for Abort
	news     chan struct{}    // something above has changed
}

// mirror starts the copies that the route asks for. The request has its final
// form; the body that is here already goes along.
func (x *exchange) mirror(f *ir.Forward) {
	if x.req.Upgrade != "" {
		return // a copy of a tunnel would answer nobody
	}
	for i := range f.Mirrors {
		m := &f.Mirrors[i]
		cluster := x.rt.clusters[m.Cluster]
		if cluster == nil || !drawn(m.Share) {
			continue
		}
		c := &mirror{set: &x.d.p.mirrors, cluster: cluster, head: x.copyHead(f, m.ShadowHost), intro: x.rt.metadata, http2: x.http2, limit: f.Timeout.D(), news: make(chan struct{}, 1)}
		if c.set.start(c) {
			x.copies = append(x.copies, c)
			c.feed(x.body, x.bodyDone, x.c.Trailers())
		}
	}
}

// copyHead is the request's head in memory of its own.
func (x *exchange) copyHead(f *ir.Forward, shadow bool) header.Head {
	h := x.req
	h.Method = strings.Clone(h.Method)
	if h.Host = strings.Clone(x.upstreamHost(f)); shadow {
		h.Host = shadowHost(h.Host)
	}
	h.Path = strings.Clone(x.requestTarget())
	h.Target, h.Scheme, h.Connection, h.Upgrade = "", strings.Clone(x.scheme), "", ""
	h.Fields = header.Map{Fields: cloneFields(x.req.Fields.Fields)}
	return h
}

func cloneFields(in []header.Field) []header.Field {
	out := make([]header.Field, len(in))
	for i, f := range in {
		out[i] = header.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	}
	return out
}

// shadowHost marks a copy for whom it reaches, as Envoy does: "-shadow" behind
// the name, in front of the port.
func shadowHost(host string) string {
	bare := route.StripPort(host)
	return bare + "-shadow" + host[len(bare):]
}

// endMirrors gives up the copies whose body will not come.
func (x *exchange) endMirrors() {
	for i, c := range x.copies {
		c.mu.Lock()
		done := c.done
		c.mu.Unlock()
		if !done {
			c.abort()
		}
		x.copies[i] = nil
	}
	x.copies = x.copies[:0]
}

func (s *mirrors) start(c *mirror) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.active) >= maxMirrors {
		s.dropped.Add(1)
		return false
	}
	if s.active == nil {
		s.active = map[*mirror]struct{}{}
	}
	s.active[c] = struct{}{}
	s.total.Add(1)
	s.running.Go(c.run)
	return true
}

func (s *mirrors) finish(c *mirror, ok bool) {
	c.abort()
	if !ok {
		s.failed.Add(1)
	}
	s.mu.Lock()
	delete(s.active, c)
	s.mu.Unlock()
}

// close gives up all copies and takes no more.
func (s *mirrors) close() {
	s.mu.Lock()
	s.closed = true
	all := make([]*mirror, 0, len(s.active))
	for c := range s.active {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.abort()
	}
}

// feed hands the copy the next piece of the body; b is copied. It never waits.
func (c *mirror) feed(b []byte, done bool, trailers []header.Field) {
	c.mu.Lock()
	switch {
	case c.broken:
	case len(c.pending)+len(b) > mirrorWindow || c.set.waiting.Add(int64(len(b))) > mirrorMemory:
		if len(c.pending)+len(b) <= mirrorWindow {
			c.set.waiting.Add(-int64(len(b)))
		}
		c.set.dropped.Add(1)
		c.breakLocked()
	default:
		c.pending = append(c.pending, b...)
		if done {
			c.done, c.trailers = true, cloneFields(trailers)
		}
	}
	c.mu.Unlock()
	c.tell()
}

// abort gives the copy up wherever it is.
func (c *mirror) abort() {
	c.mu.Lock()
	c.breakLocked()
	c.mu.Unlock()
	c.tell()
}

func (c *mirror) breakLocked() {
	c.broken = true
	c.set.waiting.Add(-int64(len(c.pending)))
	c.pending = nil
	if c.up != nil {
		c.up.Abort() // reading or writing
	}
}

func (c *mirror) tell() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}
