package identity

import (
	"crypto/tls"
	"testing"
	"time"
)

// What the mesh asks of TLS between workloads holds on either side: a peer that
// has nothing in common is refused.
func TestParameters(t *testing.T) {
	ours := newSVIDCA(t)
	us := holder(t, ours.issue(t, "us", time.Hour), ours)
	peer := holder(t, ours.issue(t, "peer", time.Hour), ours)
	const strong, other = tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	tests := []struct {
		name    string
		min     uint16
		suites  []uint16
		curves  []tls.CurveID
		other   func(*tls.Config)
		refused bool
		suite   uint16 // agreed on; 0 any
	}{
		{name: "TLS 1.3 by default", other: func(*tls.Config) {}},
		{name: "a peer of TLS 1.2", other: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		{name: "TLS 1.1 never", other: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }, refused: true},
		{name: "TLS 1.3 only", min: tls.VersionTLS13, other: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, refused: true},
		{name: "suite", suites: []uint16{strong}, other: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, suite: strong},
		{name: "no suite in common", suites: []uint16{strong}, other: func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{other} }, refused: true},
		{name: "no curve in common", curves: []tls.CurveID{tls.CurveP384}, other: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }, refused: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			judge := func(side string, cs tls.ConnectionState, err error) {
				t.Helper()
				if (err != nil) != tt.refused {
					t.Errorf("as %s: %v", side, err)
				}
				if tt.suite != 0 && cs.CipherSuite != tt.suite {
					t.Errorf("as %s: %s", side, tls.CipherSuiteName(cs.CipherSuite))
				}
			}
			client := peer.Client(ClientOptions{SNI: "us"})
			client.ClientSessionCache = nil
			tt.other(client)
			cs, err, _ := meet(t, us.Server(ServerOptions{RequireClientCert: true, MinVersion: tt.min, CipherSuites: tt.suites, Curves: tt.curves}), client)
			judge("server", cs, err)
			server := peer.Server(ServerOptions{RequireClientCert: true})
			tt.other(server)
			mine := us.Client(ClientOptions{SNI: "peer", MinVersion: tt.min, CipherSuites: tt.suites, Curves: tt.curves})
			mine.ClientSessionCache = nil
			cs, _, err = meet(t, server, mine)
			judge("client", cs, err)
		})
	}
}
