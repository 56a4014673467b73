package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// Host is one endpoint of a cluster with its connections and health.
type Host struct {
	Address string
	cluster *Cluster
	created time.Time

	endpoint atomic.Pointer[ir.Endpoint]
	peer     atomic.Pointer[telemetry.Peer] // made when first asked for
	removed  atomic.Bool
	// era counts the changes of how connections to the host are made: what was
	// made in an earlier one is not used again.
	era atomic.Uint32

	active      atomic.Int64 // requests in flight, what least-request compares
	connections atomic.Int64

	resumption [2]atomic.Pointer[resumption] // for HTTP/1.1 and others, for HTTP/2

	mu   sync.Mutex
	idle []*Conn // last in, first out: the warmest connection is used first
	// shared are the HTTP/2 connections; guarded by mu.
	shared    []*h2Conn
	dialing   atomic.Bool // a request dials for HTTP/2; others wait for it
	onlyHTTP1 atomic.Bool // the host refused HTTP/2 when asked

	ejected atomic.Bool
	outlier atomic.Pointer[outlier] // nil until something fails
}

func newHost(c *Cluster, e *ir.Endpoint) *Host {
	h := &Host{Address: e.Address, cluster: c, created: time.Now()}
	h.endpoint.Store(e)
	return h
}

// update takes over the endpoint's newest description; the peer's pointer stays
// as long as it says the same, because metrics are indexed by it.
func (h *Host) update(e *ir.Endpoint) {
	old := h.endpoint.Swap(e)
	if old.Workload != e.Workload {
		h.peer.Store(nil)
	}
	if *old != *e {
		h.onlyHTTP1.Store(false)
	}
	if old.TLS != e.TLS {
		h.renew()
	}
}

// renew begins an era: connections of the one before are closed, in use after
// their requests. The host would refuse what is sent on them (it takes mutual
// TLS now, or no more), and a request that must not be repeated would be lost.
func (h *Host) renew() {
	h.era.Add(1)
	h.closeStale()
	h.closeShared(func(*Conn) bool { return true })
}

func (h *Host) closeStale() {
	for _, conn := range h.takeIdle(func(c *Conn) bool { return c.era != h.era.Load() }) {
		conn.Close()
	}
}

// Peer names the workload behind the host for metrics.
func (h *Host) Peer() *telemetry.Peer {
	if p := h.peer.Load(); p != nil {
		return p
	}
	w := &h.endpoint.Load().Workload
	h.peer.CompareAndSwap(nil, &telemetry.Peer{
		Workload: w.Workload, Namespace: w.Namespace, Principal: w.Principal, App: w.App, Version: w.Version,
		CanonicalService: w.CanonicalService, CanonicalRevision: w.CanonicalRevision, Cluster: w.ClusterID,
	})
	if p := h.peer.Load(); p != nil {
		return p
	}
	return h.Peer() // update came in between
}

// Endpoint is the endpoint as configured.
func (h *Host) Endpoint() ir.Endpoint { return *h.endpoint.Load() }

// Ejected reports whether outlier detection has taken the host out.
func (h *Host) Ejected() bool { return h.ejected.Load() }

// Active is the number of requests in flight.
func (h *Host) Active() int64 { return h.active.Load() }

// usable: reported healthy, not ejected.
func (h *Host) usable() bool { return h.endpoint.Load().Health == ir.Healthy && !h.ejected.Load() }

func (h *Host) weight() uint32 { return max(h.endpoint.Load().Weight, 1) }

// remove closes what is idle; a connection in use ends with its request.
func (h *Host) remove() {
	h.removed.Store(true)
	for _, conn := range h.takeIdle(func(*Conn) bool { return true }) {
		conn.Close()
	}
	h.closeShared(func(*Conn) bool { return true })
}

// popIdle takes the most recently used connection.
func (h *Host) popIdle() *Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.idle)
	if n == 0 {
		return nil
	}
	conn := h.idle[n-1]
	h.idle[n-1] = nil
	h.idle = h.idle[:n-1]
	h.cluster.idle.Add(-1)
	return conn
}

// pushIdle keeps a connection for the next request. first: it is the only one
// of the cluster.
func (h *Host) pushIdle(conn *Conn, now time.Time) (first bool) {
	conn.idleSince = now
	h.mu.Lock()
	h.idle = append(h.idle, conn)
	first = h.cluster.idle.Add(1) == 1
	h.mu.Unlock()
	if h.removed.Load() { // removed between the check and the push
		h.remove()
	} else if conn.era != h.era.Load() { // likewise
		h.closeStale()
	}
	return first
}

// takeIdle removes and returns the idle connections that match.
func (h *Host) takeIdle(match func(*Conn) bool) []*Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	var taken []*Conn
	kept := h.idle[:0]
	for _, conn := range h.idle {
		if match(conn) {
			taken = append(taken, conn)
		} else {
			kept = append(kept, conn)
		}
	}
	clear(h.idle[len(kept):])
	h.idle = kept
	h.cluster.idle.Add(-int64(len(taken)))
	return taken
}
