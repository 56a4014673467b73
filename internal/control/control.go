// Package control is the control plane: resources in, one snapshot per proxy
// out. One goroutine owns the state; everything else sends it events and
// reads what it publishes.
package control

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/explain"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwks"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Debounce (Istio's PILOT_DEBOUNCE_AFTER and _MAX are 100 ms and 10 s; one
// machine wants an edit in force within a second).
const (
	debounceQuiet = 100 * time.Millisecond
	debounceMax   = time.Second
)

// Options of a control plane.
type Options struct {
	Sources []source.Source
	// Authorize checks that a stream may speak for a node.
	Authorize func(context.Context, ir.Node) error
	// Changed is told of every new state when the connected proxies have been
	// compiled for, and again when one connects later: each may show problems
	// of its own. Called from the loop's goroutine; it must not block. May be nil.
	Changed func(*State)
	// Ask puts what explain is asked to external authorizers; nil: they cannot
	// be reached from here.
	Ask explain.Ask
	// Fetch gets the keys that token issuers publish; nil: http.DefaultClient's
	// way.
	Fetch *http.Client
	// CompatibilityVersion overrides what Local objects say; "" leaves it.
	CompatibilityVersion string
	Log                  *slog.Logger
}

// State is what the control plane knows at one moment; immutable, but for the
// problems that compiling for another proxy adds.
type State struct {
	Set   *resource.Set
	Index *compile.Index
	At    time.Time
	read  []resource.Problem // of the sources
}

// Problems of decoding, then those of compiling, as far as it has been done.
// May be called from anywhere.
func (s *State) Problems() []resource.Problem {
	return append(s.read[:len(s.read):len(s.read)], s.Index.Problems()...)
}

// Control is a control plane. State and Status may be called from anywhere.
type Control struct {
	opts   Options
	server *xds.Server
	keys   *jwks.Resolver
	state  atomic.Pointer[State]
	events chan any
	done   chan struct{} // closed when the loop has ended
}

type (
	updated struct {
		source int
		update source.Update
	}
	connected    struct{ conn *xds.Conn }
	disconnected struct{ conn *xds.Conn }
	keysChanged  struct{}
)

// New returns a control plane; register its Server on a gRPC server and Run it.
func New(opts Options) *Control {
	c := &Control{opts: opts, events: make(chan any, 64), done: make(chan struct{})}
	c.server = xds.NewServer(xds.Options{
		Authorize:    opts.Authorize,
		Connected:    func(conn *xds.Conn) { c.send(connected{conn}) },
		Disconnected: func(conn *xds.Conn) { c.send(disconnected{conn}) },
		Log:          opts.Log,
	})
	c.keys = jwks.NewResolver(jwks.Options{Client: opts.Fetch, Changed: func() { c.send(keysChanged{}) }, Log: opts.Log})
	return c
}

// Server speaks xDS.
func (c *Control) Server() *xds.Server { return c.server }

// State is the newest state, nil before the first.
func (c *Control) State() *State { return c.state.Load() }

// Status of every proxy that is connected.
func (c *Control) Status() []xds.ProxyStatus { return c.server.Status() }

// Run watches the sources and serves proxies until ctx ends. Call it once.
func (c *Control) Run(ctx context.Context) error {
	defer c.keys.Close()
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range c.opts.Sources {
		g.Go(func() error {
			return s.Run(ctx, func(u source.Update) {
				c.send(updated{i, u})
			})
		})
	}
	g.Go(func() error {
		c.loop(ctx)
		return nil
	})
	return g.Wait()
}

// send hands an event to the loop, unless it has ended.
func (c *Control) send(event any) {
	select {
	case c.events <- event:
	case <-c.done:
	}
}

// loop owns the newest update of each source and the connected proxies.
func (c *Control) loop(ctx context.Context) {
	var (
		updates = make([]*source.Update, len(c.opts.Sources))
		proxies = map[*xds.Conn]bool{}
		timer   = time.NewTimer(time.Hour)
		first   time.Time // of the changes that wait
	)
	soon := func() {
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		timer.Reset(min(debounceQuiet, debounceMax-now.Sub(first)))
	}
	timer.Stop()
	defer close(c.done)
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-c.events:
			switch e := e.(type) {
			case updated:
				updates[e.source] = &e.update
				if complete(updates) && c.state.Load() == nil {
					first = time.Now()
					timer.Reset(0) // nobody has anything yet: no reason to wait
					continue
				}
				soon()
			case keysChanged:
				soon()
			case connected:
				proxies[e.conn] = true
				if s := c.state.Load(); s != nil {
					c.push(s, e.conn)
					c.changed(s)
				}
			case disconnected:
				delete(proxies, e.conn)
			}
		case <-timer.C:
			if !complete(updates) {
				first = time.Time{}
				continue
			}
			set := c.merged(updates)
			c.keys.Want(compile.KeySources(set))
			if left := debounceMax - time.Since(first); left > 0 && c.keys.Pending() {
				timer.Reset(left) // new keys come with the rule that needs them, if they come soon
				continue
			}
			first = time.Time{}
			s := c.rebuild(set, updates)
			for conn := range proxies {
				c.push(s, conn)
			}
			c.changed(s)
		}
	}
}

func complete(updates []*source.Update) bool {
	for _, u := range updates {
		if u == nil {
			return false
		}
	}
	return true
}

// merged is what all sources say together.
func (c *Control) merged(updates []*source.Update) *resource.Set {
	sets := make([]*resource.Set, 0, len(updates))
	for _, u := range updates {
		sets = append(sets, u.Set)
	}
	return merge(sets)
}

// rebuild makes the state of the newest updates and publishes it.
func (c *Control) rebuild(merged *resource.Set, updates []*source.Update) *State {
	start := time.Now()
	set := *merged
	set.KeySets = c.keys.Sets()
	if v := c.opts.CompatibilityVersion; v != "" {
		set.CompatibilityVersion = v
	}
	s := &State{At: start, Set: &set}
	for _, u := range updates {
		s.read = append(s.read, u.Problems...)
	}
	s.Index = compile.Prepare(s.Set)
	c.state.Store(s)
	c.opts.Log.Info("configuration", "took", time.Since(start), "services", len(s.Set.Services), "workloads", len(s.Set.Workloads), "problems", len(s.Problems()))
	return s
}

// changed passes a state on to whoever wants to know.
func (c *Control) changed(s *State) {
	if c.opts.Changed != nil {
		c.opts.Changed(s)
	}
}

// push compiles for one proxy and hands the snapshot to its stream.
func (c *Control) push(s *State, conn *xds.Conn) {
	snapshot := s.Index.Snapshot(conn.Node())
	conn.Push(snapshot)
	c.opts.Log.Debug("push", "proxy", conn.Node().Name, "version", snapshot.Version)
}
