package proxy

import (
	"crypto/tls"
	"net/netip"
	"sort"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// maxEdges bounds the callers that are remembered; the one that was not seen
// for longest makes room.
const maxEdges = 1000

// Edge is who called one port, and what the connections proved. Connections
// that proved the same are one edge; it outlives them. Plaintext proves
// nothing: Peer is empty and Source is all that is known.
type Edge struct {
	Local      string     `json:"local"`            // SPIFFE ID of this side
	Peer       string     `json:"peer,omitempty"`   // SPIFFE ID that the caller proved
	Source     netip.Addr `json:"source,omitzero"`  // the newest connection's
	Address    string     `json:"address"`          // what was called
	TLSVersion string     `json:"tls,omitempty"`    // as the access log has it; empty: plaintext
	Cipher     string     `json:"cipher,omitempty"` // IANA's name
	SNI        string     `json:"sni,omitempty"`
	// Serials (hexadecimal) are those of the newest connection.
	LocalSerial string    `json:"localSerial,omitempty"`
	PeerSerial  string    `json:"peerSerial,omitempty"`
	PeerExpires time.Time `json:"peerExpires,omitzero"`
	// Policy is the PeerAuthentication that decided what the port accepts.
	Policy ir.Origin `json:"policy,omitzero"`
	Mode   string    `json:"mode"` // "mutual", "tls" or "plaintext"

	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Connections uint64    `json:"connections"` // since the proxy started
	Open        int64     `json:"open"`
}

// edgeKey is what tells edges apart.
type edgeKey struct {
	local                      netip.AddrPort
	peer, version, cipher, sni string
	source                     netip.Addr // only where nothing else says who it is
	policy                     ir.Origin
}

// edges is what this proxy's callers proved. Safe for concurrent use.
type edges struct {
	mu  sync.Mutex
	all map[edgeKey]*Edge
}

// noteEdge keeps what a connection from elsewhere proved. serve calls it once
// it is known who is there; serve's caller calls edges.close at the end.
func (d *downstream) noteEdge() {
	if d.chain.outbound { // the workload itself
		return
	}
	o := d.chain.Origin
	key := edgeKey{local: d.local, peer: d.peer, version: d.tlsVersion, cipher: d.tlsCipher, sni: d.sni, policy: o}
	e := Edge{Local: d.rt.principal, Peer: d.peer, Source: d.remote.Addr(), Address: d.localText, TLSVersion: d.tlsVersion, Cipher: d.tlsCipher,
		SNI: d.sni, Policy: o, Mode: "plaintext", Last: time.Now()}
	if d.peer == "" {
		key.source = e.Source
	}
	if tc, ok := d.conn.(*tls.Conn); ok {
		e.Mode = "tls"
		if peers := tc.ConnectionState().PeerCertificates; len(peers) > 0 {
			e.Mode, e.PeerSerial, e.PeerExpires = "mutual", peers[0].SerialNumber.Text(16), peers[0].NotAfter
		}
		if serial := d.p.opts.Serial; serial != nil && d.chain.TLS.Secret == ir.SecretWorkload {
			e.LocalSerial = serial()
		}
	}
	d.edge = d.p.edges.open(key, e)
}

func (es *edges) open(key edgeKey, e Edge) *Edge {
	es.mu.Lock()
	defer es.mu.Unlock()
	kept := es.all[key]
	if kept == nil {
		es.makeRoom()
		kept = &Edge{First: e.Last}
		es.all[key] = kept
	}
	e.First, e.Connections, e.Open = kept.First, kept.Connections+1, kept.Open+1
	*kept = e
	return kept
}

// close notes the end of a connection; nil: it was not noted.
func (es *edges) close(e *Edge) {
	if e == nil {
		return
	}
	es.mu.Lock()
	defer es.mu.Unlock()
	e.Open--
	e.Last = time.Now()
}

func (es *edges) makeRoom() {
	if es.all == nil {
		es.all = map[edgeKey]*Edge{}
	}
	if len(es.all) < maxEdges {
		return
	}
	var oldest edgeKey
	var last time.Time
	for k, e := range es.all {
		if last.IsZero() || e.Last.Before(last) {
			oldest, last = k, e.Last
		}
	}
	delete(es.all, oldest)
}

// Edges lists who has called this proxy's workload and what the connections
// proved, by address and peer. Safe for concurrent use.
func (p *Proxy) Edges() []Edge {
	p.edges.mu.Lock()
	out := make([]Edge, 0, len(p.edges.all))
	for _, e := range p.edges.all {
		out = append(out, *e)
	}
	p.edges.mu.Unlock()
	sort.Slice(out, func(i, j int) bool {
		a, b := &out[i], &out[j]
		switch {
		case a.Address != b.Address:
			return a.Address < b.Address
		case a.Peer != b.Peer:
			return a.Peer < b.Peer
		case a.Source != b.Source:
			return a.Source.Less(b.Source)
		}
		return a.First.Before(b.First)
	})
	return out
}
