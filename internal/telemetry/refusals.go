package telemetry

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

// PeerRefusals counts TLS peers whose certificate was not accepted, by reason.
// The zero value is ready; safe for concurrent use.
type PeerRefusals struct {
	mu sync.Mutex
	by map[string]uint64
}

// Count counts err if it says why a peer was refused, and returns the reason;
// "" if it does not: the peer refused us, or spoke no TLS.
func (p *PeerRefusals) Count(err error) string {
	var refused interface{ PeerRefused() string } // identity's words; telemetry knows only that there are some
	if !errors.As(err, &refused) {
		return ""
	}
	reason := refused.PeerRefused()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string]uint64{}
	}
	p.by[reason]++
	return reason
}

// Collect writes the counters of one side, "downstream" or "upstream".
func (p *PeerRefusals) Collect(e *Exposition, side string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, reason := range slices.Sorted(maps.Keys(p.by)) {
		e.Add("counter", "tulle_tls_peer_refused_total", float64(p.by[reason]), "side", side, "reason", reason)
	}
}
