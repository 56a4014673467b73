// Package interop puts stock peers (grpc-go's interoperability suite, h2spec)
// before and behind a pair of Tulle's sidecars.
package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// Pair is a client's and a server's sidecar in this process: cleartext in,
// mutual TLS between them, cleartext to the application.
type Pair struct {
	Outbound string // the client's sidecar, host:port, cleartext
	Inbound  string // the server's sidecar, host:port, mutual TLS
	// ClientTLS is what a mesh client presents to Inbound.
	ClientTLS *tls.Config
}

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// NewPair starts a pair in front of an application that speaks HTTP/2 in
// cleartext at backend.
func NewPair(t testing.TB, backend string) *Pair {
	t.Helper()
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	client, server := svid(t, authority, "client"), svid(t, authority, "server")
	alpn := []string{"istio-h2", "h2", "istio"}
	http := func(table string) *ir.HTTP {
		return &ir.HTTP{RouteTable: table, Upgrades: []string{"websocket"}, ForwardClientCert: "appendForward"}
	}
	in := start(t, server, &ir.Snapshot{
		Node: ir.Node{Type: ir.Sidecar, Name: "server-0", Namespace: "interop", ServiceAccount: "server"},
		Listeners: []*ir.Listener{{Name: "virtualInbound", Address: anyPort, Direction: ir.Inbound, Bind: true, InspectTLS: true,
			Chains: []*ir.FilterChain{{Name: "in", TLS: &ir.DownstreamTLS{Secret: ir.SecretWorkload, RequireClientCert: true, ALPN: alpn}, HTTP: http("in")}}}},
		Routes:   []*ir.RouteTable{everythingTo("in", "inbound")},
		Clusters: []*ir.Cluster{cluster("inbound", backend, false)},
	})
	out := start(t, client, &ir.Snapshot{
		Node: ir.Node{Type: ir.Sidecar, Name: "client-0", Namespace: "interop", ServiceAccount: "client"},
		Listeners: []*ir.Listener{{Name: "outbound", Address: anyPort, Direction: ir.Outbound, Bind: true,
			Chains: []*ir.FilterChain{{Name: "out", HTTP: http("out")}}}},
		Routes:   []*ir.RouteTable{everythingTo("out", "server")},
		Clusters: []*ir.Cluster{cluster("server", in, true)},
	})
	return &Pair{Outbound: out, Inbound: in, ClientTLS: client.Client(identity.ClientOptions{ALPN: []string{"h2"}})}
}

func everythingTo(table, cluster string) *ir.RouteTable {
	return &ir.RouteTable{Name: table, VirtualHosts: []*ir.VirtualHost{{Name: "all", Domains: []string{"*"},
		Routes: []*ir.Route{{Name: "default", Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: cluster}}}}}}}}
}

func cluster(name, address string, mutual bool) *ir.Cluster {
	c := &ir.Cluster{Name: name, Type: ir.Static, Breaker: ir.DefaultBreaker(), HTTP: ir.HTTPUpstream{Protocol: "http2"},
		Endpoints: &ir.EndpointSet{Cluster: name, Endpoints: []ir.Endpoint{{Address: address}}}}
	if mutual {
		c.TLS = &ir.UpstreamTLS{Mode: "ISTIO_MUTUAL", ALPN: []string{"istio-h2", "istio"}}
	}
	return c
}

// start runs one sidecar and returns where it listens.
func start(t testing.TB, holder *identity.Holder, s *ir.Snapshot) string {
	t.Helper()
	p := proxy.New(proxy.Options{TLS: contexts{holder}, OpenLog: func(string) (*telemetry.Logger, error) { return telemetry.NewLogger(t.Output()), nil }})
	if err := p.Apply(s.Seal()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p.Drain(ctx)
	})
	return p.Addr(anyPort).String()
}

// contexts implements proxy.TLS with one identity.
type contexts struct{ *identity.Holder }

func (c contexts) ServerTLS(d *ir.DownstreamTLS, _ func(string) *ir.Secret) (*tls.Config, error) {
	return c.Server(identity.ServerOptions{RequireClientCert: d.RequireClientCert, ALPN: d.ALPN}), nil
}

func (c contexts) ClientTLS(u *ir.UpstreamTLS, _ func(string) *ir.Secret) (*tls.Config, error) {
	return c.Client(identity.ClientOptions{SNI: u.SNI, ALPN: u.ALPN}), nil
}

// svid has the authority sign a certificate for a service account.
func svid(t testing.TB, a *ca.Authority, account string) *identity.Holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}),
		identity.ID{TrustDomain: "cluster.local", Namespace: "interop", ServiceAccount: account}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, text := range chain[:len(chain)-1] {
		block, _ := pem.Decode([]byte(text))
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	roots, err := ca.ParseCertificates(a.Roots())
	if err != nil {
		t.Fatal(err)
	}
	h := identity.NewHolder("cluster.local")
	if err := h.Set(cert, roots); err != nil {
		t.Fatal(fmt.Errorf("identity of %s: %w", account, err))
	}
	return h
}
