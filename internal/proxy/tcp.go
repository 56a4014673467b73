package proxy

import (
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// tcpSession is one proxied connection: authorize → pick → connect → splice →
// record, the same steps as a request, once per connection.
type tcpSession struct {
	*downstream
	rec     telemetry.Record
	cluster *upstream.Cluster
	host    *upstream.Host
	start   time.Time
	series  *telemetry.Series
}

func (d *downstream) serveTCP() {
	s := &tcpSession{downstream: d, start: time.Now()}
	defer s.record()
	if !s.authorize() {
		return
	}
	up, ok := s.connect()
	if !ok {
		return
	}
	defer up.Close()
	s.host.Begin()
	defer s.host.End()
	defer d.watch(s.stillAllowed, d.abort)()
	s.series = d.p.metrics.Series(s.key(d.rt))
	if s.series != nil {
		s.series.Opened()
	}
	idle := d.chain.TCP.IdleTimeout.D()
	switch {
	case idle == 0:
		idle = defaultIdle
	case idle < 0:
		idle = never
	}
	if limit := d.chain.TCP.MaxDuration.D(); limit > 0 {
		end := time.AfterFunc(limit, func() {
			d.raw.Close()
			up.Conn.Close()
		})
		defer end.Stop()
	}
	received, sent := splice(d.conn, up.Conn, idle, func(received, sent int64) {
		if s.series != nil {
			s.series.Bytes(received, sent)
		}
	})
	s.rec.BytesReceived, s.rec.BytesSent = received, sent
}

func (s *tcpSession) input() *authz.Input {
	return &authz.Input{Principal: s.peer, SourceIP: s.remote.Addr(), RemoteIP: s.remote.Addr(),
		DestinationIP: s.local.Addr(), DestinationPort: s.local.Port(), SNI: s.sni}
}

func (s *tcpSession) authorize() bool {
	if len(s.chain.Filters) == 0 {
		return true
	}
	d := s.chain.authz.Check(s.input(), s)
	if d.Marked() {
		s.judged(s.chain, &d, &s.rec)
	}
	if d.Allow {
		return true
	}
	if d.External != nil {
		s.rec.Flags |= telemetry.ExternalDenied
	}
	s.denied(&d)
	s.rec.Details = d.Details()
	s.rec.Termination = d.Details()
	return false
}

// Ask implements authz.Asker for connections.
func (s *tcpSession) Ask(f *ir.ExtAuthz) authz.Verdict {
	return ask(s.chain, f, &authz.External{
		Provider: f.Provider, SourceAddress: s.remote, DestinationAddress: s.local,
		SourcePrincipal: s.peer, DestinationPrincipal: s.rt.principal, SNI: s.sni, Time: s.start,
	})
}

// stillAllowed reports whether a new configuration would accept the connection
// as the old one did. Called from Apply's goroutine; it reads only what serve
// has stopped writing.
func (s *tcpSession) stillAllowed(next *runtime) bool {
	if next.byName[s.chain.listener.Name] == nil {
		return true // a service that left the configuration refuses nothing
	}
	c := next.chainFor(s.downstream, s.chain)
	if c == s.chain {
		return true
	}
	if c == nil || c.TCP == nil {
		return false
	}
	for _, f := range c.Filters {
		if f.ExtAuthz != nil { // asked when the connection was made; not again for every edit
			return true
		}
	}
	return c.authz.Check(s.input(), s).Allow
}

func (s *tcpSession) connect() (*upstream.Conn, bool) {
	name := s.pick(s.chain.TCP.Clusters)
	s.rec.Cluster = name
	s.cluster = s.rt.clusters[name]
	if s.cluster == nil {
		s.rec.Flags |= telemetry.NoCluster
		s.reset()
		return nil, false
	}
	if name == ir.BlackHoleCluster {
		s.rec.Flags |= telemetry.NoHealthyUpstream
		s.reset()
		return nil, false
	}
	const tries = 3 // Envoy's max_connect_attempts is 1; a dead endpoint must not cost the caller its connection
	var avoid []*upstream.Host
	for range tries {
		h := s.cluster.PickBy(s.hash(), s.target(), avoid, previousHostTry)
		if h == nil {
			s.rec.Flags |= telemetry.NoHealthyUpstream
			break
		}
		s.host = h
		s.rec.UpstreamHost = h.Address
		up, err := s.dial(h)
		if err == nil {
			s.rec.UpstreamLocal = up.LocalText()
			s.cluster.Report(h, upstream.Outcome{Status: 200})
			return up, true
		}
		if errors.Is(err, upstream.ErrOverflow) {
			s.rec.Flags |= telemetry.UpstreamOverflow
			break
		}
		s.cluster.Report(h, upstream.Outcome{Local: true})
		s.rec.Flags |= telemetry.UpstreamConnectFailure
		s.rec.Failure = err.Error()
		avoid = append(avoid, h)
		if s.cluster.Config().Type == ir.OriginalDst || s.chain.TCP.Tunnel != nil {
			break // there is no other, or the forward proxy has refused
		}
	}
	s.reset()
	return nil, false
}

// pick draws one of the weighted clusters.
func (s *tcpSession) pick(clusters []ir.WeightedCluster) string {
	var sum uint64
	for _, c := range clusters {
		sum += uint64(c.Weight)
	}
	if sum == 0 {
		return clusters[0].Name
	}
	at := rand.Uint64N(sum)
	for _, c := range clusters {
		if at < uint64(c.Weight) {
			return c.Name
		}
		at -= uint64(c.Weight)
	}
	return clusters[0].Name
}

func (s *tcpSession) key(rt *runtime) telemetry.SeriesKey {
	k := telemetry.SeriesKey{TCP: true, Flags: s.rec.Flags}
	if s.cluster != nil {
		k.Service = s.cluster.Service()
	}
	if s.chain.outbound {
		k.Reporter, k.Source = telemetry.Source, rt.self
		if s.host != nil {
			k.Target = s.host.Peer()
		}
	} else {
		k.Reporter, k.Source, k.Target, k.MutualTLS = telemetry.Destination, s.peerInfo.Load(), rt.self, s.peer != ""
	}
	return k
}

func (s *tcpSession) record() {
	r := &s.rec
	r.Start, r.Duration = s.start, time.Since(s.start)
	r.DownstreamLocal, r.DownstreamRemote, r.SNI = s.localText, s.remoteText, s.sni
	r.PeerPrincipal, r.LocalPrincipal, r.Version = s.peer, s.rt.principal, s.rt.version
	r.TLSVersion, r.TLSCipher = s.tlsVersion, s.tlsCipher
	if r.Details == "" {
		r.Details = "-"
	}
	if s.series == nil { // it never got as far as an upstream
		if s.series = s.p.metrics.Series(s.key(s.rt)); s.series != nil {
			s.series.Opened()
		}
	}
	if s.series != nil {
		s.series.Closed()
	}
	if r.Flags&^noFailure != 0 && r.UpstreamLocal == "" {
		s.keepFailure()
	}
	if s.chain.log != nil {
		s.chain.log.Log(s.chain.format, r)
	}
	if tc, ok := s.conn.(*tls.Conn); ok {
		tc.Close()
	}
}
