package upstream

import (
	"crypto/tls"
	"sync/atomic"
)

// resumption is a host's TLS configuration with its last session. Sessions are
// kept per host, not per server name as crypto/tls does: behind one name are
// several workloads, and each opens only its own tickets.
type resumption struct {
	from *tls.Config // the cluster's; a new one starts without session
	conf *tls.Config
	last atomic.Pointer[tls.ClientSessionState]
}

// resuming returns what offering makes of conf, with the session of the last
// connection to this host that spoke the same. What a session may be used for
// is checked anew by conf.VerifyConnection, which crypto/tls calls on
// resumption too.
func (h *Host) resuming(conf *tls.Config, http2 bool) *tls.Config {
	if conf.ClientSessionCache == nil {
		return offering(conf, http2) // this configuration does not resume
	}
	slot := h.slot(http2)
	if r := slot.Load(); r != nil && r.from == conf {
		return r.conf
	}
	r := &resumption{from: conf, conf: offering(conf, http2).Clone()}
	r.conf.ClientSessionCache = r
	slot.Store(r)
	return r.conf
}

func (h *Host) slot(http2 bool) *atomic.Pointer[resumption] {
	if http2 {
		return &h.resumption[1]
	}
	return &h.resumption[0]
}

// forgetSession drops the host's session and reports whether there was one: its
// certificate may have been good once and be refused now, and would be refused
// each time.
func (h *Host) forgetSession(http2 bool) bool {
	r := h.slot(http2).Load()
	return r != nil && r.last.Swap(nil) != nil
}

// Get implements tls.ClientSessionCache.
func (r *resumption) Get(string) (*tls.ClientSessionState, bool) {
	s := r.last.Load()
	return s, s != nil
}

// Put implements tls.ClientSessionCache.
func (r *resumption) Put(_ string, s *tls.ClientSessionState) { r.last.Store(s) }
