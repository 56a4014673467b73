package xds

import (
	"context"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/ir"
)

const (
	defaultStuck     = 30 * time.Second
	maxSubscriptions = 20_000
)

// Options of a Server.
type Options struct {
	// Authorize checks that the peer of a stream may speak for the node it
	// claims to be; an error closes the stream. nil lets everyone in.
	Authorize func(context.Context, ir.Node) error
	// Connected and Disconnected bracket a stream's life. Connected is called
	// before anything is sent.
	Connected, Disconnected func(*Conn)
	// StuckAfter closes a stream that leaves a push unacknowledged for so
	// long. Default 30s.
	StuckAfter time.Duration
	Log        *slog.Logger
}

// Server speaks ADS. All its methods may be called from any goroutine.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	opts  Options
	mu    sync.Mutex
	conns map[*Conn]struct{}
	stuck atomic.Int64
}

// NewServer returns a server; Register it.
func NewServer(opts Options) *Server {
	if opts.StuckAfter == 0 {
		opts.StuckAfter = defaultStuck
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{opts: opts, conns: map[*Conn]struct{}{}}
}

// Register serves ADS on s.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Stuck counts streams that were closed because they stopped acknowledging.
func (s *Server) Stuck() int64 { return s.stuck.Load() }

// Conn is one proxy's stream.
type Conn struct {
	node      ir.Node
	since     time.Time
	latest    atomic.Pointer[Resources]
	wake      chan struct{} // capacity 1
	mu        sync.Mutex    // guards what follows
	status    map[string]*TypeStatus
	settled   string
	encodeErr string
}

// Node of the proxy.
func (c *Conn) Node() ir.Node { return c.node }

// Push hands over the newest snapshot; one that was not sent yet is replaced.
// It does not block.
func (c *Conn) Push(s *ir.Snapshot) {
	r, err := Encode(s)
	if err != nil {
		c.mu.Lock()
		c.encodeErr = err.Error()
		c.mu.Unlock()
		return
	}
	c.latest.Store(r)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// TypeStatus is how far one resource type of one proxy is.
type TypeStatus struct {
	Sent  string `json:"sent,omitempty"`
	Acked string `json:"acked,omitempty"`
	Nack  string `json:"nack,omitempty"` // why the last push was refused
}

// ProxyStatus is one proxy's state.
type ProxyStatus struct {
	Node    ir.Node                `json:"node"`
	Since   time.Time              `json:"since"`
	Version string                 `json:"version"` // of the newest snapshot compiled for it
	Settled string                 `json:"settled"` // the newest one that it has answered to in full
	Types   map[string]*TypeStatus `json:"types"`
	Problem string                 `json:"problem,omitempty"`
}

// State is SYNCED, STALE, NOT SENT or NACK for a type.
func (p *ProxyStatus) State(typeURL string) string {
	t := p.Types[typeURL]
	switch {
	case t == nil || t.Sent == "":
		return "NOT SENT"
	case t.Nack != "":
		return "NACK"
	case t.Sent == t.Acked:
		return "SYNCED"
	}
	return "STALE"
}

// Synced reports whether the proxy has answered to all of its newest snapshot
// and refused nothing.
func (p *ProxyStatus) Synced() bool {
	for _, t := range p.Types {
		if t.Nack != "" {
			return false
		}
	}
	return p.Version != "" && p.Settled == p.Version
}

// Status of every connected proxy, by name.
func (s *Server) Status() []ProxyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ProxyStatus, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c.snapshotStatus())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Node.Name < out[j].Node.Name })
	return out
}

func (c *Conn) snapshotStatus() ProxyStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := ProxyStatus{Node: c.node, Since: c.since, Settled: c.settled, Types: map[string]*TypeStatus{}, Problem: c.encodeErr}
	if r := c.latest.Load(); r != nil {
		p.Version = r.Version
	}
	for k, v := range c.status {
		copied := *v
		p.Types[k] = &copied
	}
	return p
}

func (c *Conn) settle(version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled = version
}

func (c *Conn) update(typeURL string, f func(*TypeStatus)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status[typeURL] == nil {
		c.status[typeURL] = &TypeStatus{}
	}
	f(c.status[typeURL])
}

// admit authenticates the first request of a stream.
func (s *Server) admit(ctx context.Context, m *core.Node) (*Conn, error) {
	node, err := DecodeNode(m)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if s.opts.Authorize != nil {
		if err := s.opts.Authorize(ctx, node); err != nil {
			return nil, err
		}
	}
	c := &Conn{node: node, since: time.Now(), wake: make(chan struct{}, 1), status: map[string]*TypeStatus{}}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	if s.opts.Connected != nil {
		s.opts.Connected(c)
	}
	return c, nil
}

func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if s.opts.Disconnected != nil {
		s.opts.Disconnected(c)
	}
}

// subscription is one type on one stream.
type subscription struct {
	wildcard bool
	names    map[string]bool
	sent     map[string]string // name → version the peer has (or was sent)
	answered bool              // at least one response went out
	nonce    string            // outstanding; "" for none
	since    time.Time         // of the outstanding push
	version  string            // of the outstanding push
}

func newSubscription() *subscription {
	return &subscription{names: map[string]bool{}, sent: map[string]string{}}
}

// wanted reports whether the peer asked for the resource.
func (sub *subscription) wanted(name string) bool { return sub.wildcard || sub.names[name] }

// diff lists what the peer lacks and what it has too much.
func (sub *subscription) diff(r *Resources, typeURL string) (changed []*Resource, removed []string) {
	have := r.ByType[typeURL]
	for _, name := range r.names(typeURL) {
		if res := have[name]; sub.wanted(name) && sub.sent[name] != res.Version {
			changed = append(changed, res)
		}
	}
	for name := range sub.sent {
		if have[name] == nil || !sub.wanted(name) {
			removed = append(removed, name)
		}
	}
	sort.Strings(removed)
	return changed, removed
}
