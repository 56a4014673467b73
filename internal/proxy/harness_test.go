package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// testCA signs SVIDs for tests and makes TLS configurations from them.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	ca := &testCA{cert: cert, key: key, pool: x509.NewCertPool()}
	ca.pool.AddCert(cert)
	return ca
}

func (ca *testCA) issue(t testing.TB, spiffe string) tls.Certificate {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	u, _ := url.Parse(spiffe)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// contexts implements TLS with one certificate.
type contexts struct {
	ca   *testCA
	cert tls.Certificate
}

func (c *contexts) ServerTLS(d *ir.DownstreamTLS, _ func(string) *ir.Secret) (*tls.Config, error) {
	conf := &tls.Config{Certificates: []tls.Certificate{c.cert}, MinVersion: tls.VersionTLS13, NextProtos: d.ALPN}
	if d.RequireClientCert {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, c.ca.pool
	}
	return conf, nil
}

func (c *contexts) ClientTLS(u *ir.UpstreamTLS, _ func(string) *ir.Secret) (*tls.Config, error) {
	return &tls.Config{Certificates: []tls.Certificate{c.cert}, InsecureSkipVerify: true, ServerName: u.SNI, NextProtos: u.ALPN,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: c.ca.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		}}, nil
}

// lines collects an access log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	new chan struct{}
}

func newLines() *lines { return &lines{new: make(chan struct{}, 1)} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(b)
	select {
	case l.new <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// wait returns the log once it contains what.
func (l *lines) wait(t testing.TB, what string) string {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		if s := l.String(); strings.Contains(s, what) {
			return s
		}
		select {
		case <-l.new:
		case <-deadline.C:
			t.Fatalf("the log never said %q:\n%s", what, l.String())
		}
	}
}

const listenAddr = "127.0.0.1:0"

// mesh is a pair of proxies in process: client → A (plaintext in, mTLS out) →
// B (mTLS in, plaintext out) → app.
type mesh struct {
	t          testing.TB
	ca         *testCA
	a, b       *Proxy
	logA, logB *lines
	debug      *lines // the proxies' own log, if edit sets it
	app        *httptest.Server
	url        string
	snapA      *ir.Snapshot
	snapB      *ir.Snapshot
	options    func(*Options) // changes what both proxies are made with
}

const (
	web    = "spiffe://cluster.local/ns/shop/sa/web"
	worker = "spiffe://cluster.local/ns/shop/sa/worker"
)

func newMesh(t testing.TB, app http.Handler, edit func(m *mesh)) *mesh {
	t.Helper()
	ca := newCA(t)
	m := &mesh{t: t, ca: ca, logA: newLines(), logB: newLines(), app: httptest.NewServer(app)}
	appAddr := m.app.Listener.Addr().String()
	zero := netip.MustParseAddrPort(listenAddr)
	m.snapB = &ir.Snapshot{
		Node: ir.Node{Type: ir.Sidecar, Name: "worker-0", Namespace: "shop", ServiceAccount: "worker", WorkloadName: "worker"},
		Listeners: []*ir.Listener{{Name: "virtualInbound", Address: zero, Direction: ir.Inbound, Bind: true, InspectTLS: true,
			Chains: []*ir.FilterChain{{Name: "8000", Match: ir.ChainMatch{Transport: ir.TransportTLS},
				TLS:  &ir.DownstreamTLS{Secret: "default", RequireClientCert: true, ALPN: []string{"istio"}},
				HTTP: &ir.HTTP{RouteTable: "inbound", ForwardClientCert: "sanitizeSet", Upgrades: []string{"websocket"}, AccessLog: &ir.AccessLog{Path: "b"}}}}}},
		Routes: []*ir.RouteTable{{Name: "inbound", VirtualHosts: []*ir.VirtualHost{{Name: "inbound|http|8000", Domains: []string{"*"},
			Routes: []*ir.Route{{Name: "default", Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: "inbound|8000||"}}}}}}}}},
		Clusters: []*ir.Cluster{{Name: "inbound|8000||", Type: ir.Static, Breaker: ir.DefaultBreaker(),
			Endpoints: &ir.EndpointSet{Cluster: "inbound|8000||", Endpoints: []ir.Endpoint{{Address: appAddr}}}}},
	}
	m.snapA = &ir.Snapshot{
		Node: ir.Node{Type: ir.Sidecar, Name: "web-0", Namespace: "shop", ServiceAccount: "web", WorkloadName: "web"},
		Listeners: []*ir.Listener{{Name: "out", Address: zero, Direction: ir.Outbound, Bind: true,
			Chains: []*ir.FilterChain{{Name: "8000", HTTP: &ir.HTTP{RouteTable: "8000", Upgrades: []string{"websocket"}, AccessLog: &ir.AccessLog{Path: "a"}}}}}},
		Routes: []*ir.RouteTable{{Name: "8000", VirtualHosts: []*ir.VirtualHost{{Name: "worker.shop:8000", Domains: []string{"*"},
			Routes: []*ir.Route{{Name: "default", Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: "worker"}}}}}}}}},
		Clusters: []*ir.Cluster{{Name: "worker", Type: ir.EDS, Breaker: ir.DefaultBreaker(), Service: ir.ServiceRef{Host: "worker.shop.svc.cluster.local", Name: "worker", Namespace: "shop"},
			AutoTLS: &ir.UpstreamTLS{Mode: "ISTIO_MUTUAL", SNI: "outbound_.8000_._.worker.shop.svc.cluster.local", ALPN: []string{"istio"}}}},
	}
	if edit != nil {
		edit(m)
	}
	start := func(principal string, log *lines) *Proxy {
		var own *slog.Logger
		if m.debug != nil {
			own = slog.New(slog.NewTextHandler(m.debug, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		o := Options{Log: own, TLS: &contexts{ca, ca.issue(t, principal)}, OpenLog: func(string) (*telemetry.Logger, error) { return telemetry.NewLogger(log), nil }}
		if m.options != nil {
			m.options(&o)
		}
		return New(o)
	}
	m.b = start(worker, m.logB)
	m.apply(m.b, m.snapB)
	if m.snapA.EndpointSet("worker") == nil {
		m.snapA.Endpoints = append(m.snapA.Endpoints, &ir.EndpointSet{Cluster: "worker", Endpoints: []ir.Endpoint{{Address: m.b.Addr(zero).String(), TLS: true, Workload: ir.WorkloadRef{Workload: "worker", Namespace: "shop", Principal: worker}}}})
	}
	m.a = start(web, m.logA)
	m.apply(m.a, m.snapA)
	m.url = "http://" + m.a.Addr(zero).String()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		http.DefaultClient.CloseIdleConnections()
		m.a.Drain(ctx)
		m.b.Drain(ctx)
		m.app.CloseClientConnections()
		m.app.Close()
	})
	return m
}

// apply puts a copy of s in force: what is applied must never be changed again,
// and tests go on editing theirs.
func (m *mesh) apply(p *Proxy, s *ir.Snapshot) {
	m.t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		m.t.Fatal(err)
	}
	c := &ir.Snapshot{}
	if err := json.Unmarshal(b, c); err != nil {
		m.t.Fatal(err)
	}
	if err := p.Apply(c.Seal()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) get(path string, edit ...func(*http.Request)) (*http.Response, string) {
	m.t.Helper()
	req, err := http.NewRequest("GET", m.url+path, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range edit {
		e(req)
	}
	return m.do(req)
}

func (m *mesh) do(req *http.Request) (*http.Response, string) {
	m.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp, string(b)
}

// metric is the value of the first sample whose line contains all of parts.
func metric(p *Proxy, parts ...string) string {
	var e telemetry.Exposition
	p.Collect(&e)
	var b strings.Builder
	_, _ = e.WriteTo(&b)
line:
	for _, l := range strings.Split(b.String(), "\n") {
		if strings.HasPrefix(l, "#") {
			continue
		}
		for _, part := range parts {
			if !strings.Contains(l, part) {
				continue line
			}
		}
		return l[strings.LastIndexByte(l, ' ')+1:]
	}
	return ""
}

var _ = fmt.Sprint
var _ net.Conn

// newServer is a plain HTTP server beside the mesh; its address.
func newServer(t testing.TB, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}
