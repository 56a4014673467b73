package identity

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

// badPeer makes a certificate that differs from a good one in one respect.
func badPeer(t *testing.T, by *svidCA, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := ecKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{spiffeURL("cluster.local", "peer")}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	change(tmpl)
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func spiffeURL(trustDomain, account string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/ns/default/sa/" + account}
}

// Every certificate that is wrong in one respect is refused by either side,
// with the reason that is the case, over the configurations that proxies use.
func TestBadPeersAreRefused(t *testing.T) {
	ours, other, removed := newSVIDCA(t), newSVIDCA(t), newSVIDCA(t)
	accept := func(uri string) bool { return strings.HasSuffix(uri, "/ns/default/sa/peer") }
	same := func(*x509.Certificate) {}
	// usage is the extended key usage that the other side does not need.
	usage := func(u x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{u} }
	}
	tests := []struct {
		name           string
		by             *svidCA // nil: itself
		change         func(*x509.Certificate)
		client, server Reason // why the peer is refused as client, as server; "" it is not
		label          string
	}{
		{"good", ours, same, "", "", ""},
		{"expired", ours, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, Expired, Expired, "expired"},
		{"not yet valid", ours, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, NotYetValid, NotYetValid, "not_yet_valid"},
		{"wrong trust domain", ours, func(c *x509.Certificate) { c.URIs[0] = spiffeURL("elsewhere", "other") }, WrongTrustDomain, WrongTrustDomain, "wrong_trust_domain"},
		{"wrong SAN", ours, func(c *x509.Certificate) { c.URIs[0] = spiffeURL("cluster.local", "other") }, WrongSAN, WrongSAN, "wrong_san"},
		{"self-signed", nil, same, SelfSigned, SelfSigned, "self_signed"},
		{"another authority", other, same, UnknownAuthority, UnknownAuthority, "unknown_authority"},
		{"signer removed from the bundle", removed, same, Withdrawn, Withdrawn, "withdrawn_authority"},
		{"for servers only", ours, usage(x509.ExtKeyUsageServerAuth), WrongUsage, "", "wrong_usage"},
		{"for clients only", ours, usage(x509.ExtKeyUsageClientAuth), "", WrongUsage, "wrong_usage"},
		{"no SPIFFE ID", ours, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"peer.example"} }, NoSPIFFE, NoSPIFFE, "no_spiffe_id"},
		{"two SPIFFE IDs", ours, func(c *x509.Certificate) { c.URIs = append(c.URIs, spiffeURL("cluster.local", "admin")) }, NoSPIFFE, NoSPIFFE, "no_spiffe_id"},
		{"a SPIFFE ID with a path of its own", ours, func(c *x509.Certificate) { c.URIs[0].Path = "/ns/default/sa/peer/../admin" }, NoSPIFFE, NoSPIFFE, "no_spiffe_id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad := badPeer(t, tt.by, tt.change)
			us := holder(t, ours.issue(t, "us", time.Hour), ours, removed)
			us.SetBundle([]*x509.Certificate{ours.cert})
			// What the peer itself thinks of us is not the question: it accepts us.
			peerClient := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &bad, nil }}
			peerServer := &tls.Config{Certificates: []tls.Certificate{bad}, ClientAuth: tls.RequireAnyClientCert}
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				_, asServer, _ := meet(t, us.Server(ServerOptions{RequireClientCert: true, Accept: accept, MaxVersion: version, MinVersion: version}), peerClient)
				judge(t, "client, "+tls.VersionName(version), asServer, tt.client, tt.label)
				peerServer.MaxVersion = version
				_, _, asClient := meet(t, peerServer, us.Client(ClientOptions{SNI: "peer", Accept: accept}))
				judge(t, "server, "+tls.VersionName(version), asClient, tt.server, tt.label)
			}
		})
	}
}

func judge(t *testing.T, side string, err error, want Reason, label string) {
	t.Helper()
	var refused *VerifyError
	switch {
	case want == "" && err != nil:
		t.Errorf("as %s: %v", side, err)
	case want == "":
	case !errors.As(err, &refused) || refused.Reason != want:
		t.Errorf("as %s: %v, want %q", side, err, want)
	case refused.PeerRefused() != label:
		t.Errorf("as %s: counted as %q, want %q", side, refused.PeerRefused(), label)
	}
}

// A server that wants a certificate refuses a client without one.
func TestNoCertificateIsRefused(t *testing.T) {
	ours := newSVIDCA(t)
	us := holder(t, ours.issue(t, "us", time.Hour), ours)
	_, err, _ := meet(t, us.Server(ServerOptions{RequireClientCert: true}), &tls.Config{InsecureSkipVerify: true})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v", err)
	}
}

// Peers of a trust domain's alias are who their SPIFFE ID says, where the
// configuration expects them.
func TestTrustDomainAliases(t *testing.T) {
	ours := newSVIDCA(t)
	us := holder(t, ours.issue(t, "us", time.Hour), ours)
	alias := badPeer(t, ours, func(c *x509.Certificate) { c.URIs[0] = spiffeURL("old-td", "peer") })
	peer := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{alias}}
	accept := func(uri string) bool {
		return strings.HasPrefix(uri, "spiffe://cluster.local/") || strings.HasPrefix(uri, "spiffe://old-td/")
	}
	if _, err, _ := meet(t, us.Server(ServerOptions{RequireClientCert: true, Accept: accept}), peer); err != nil {
		t.Error(err)
	}
	_, err, _ := meet(t, us.Server(ServerOptions{RequireClientCert: true}), peer)
	judge(t, "client of an alias that nobody configured", err, WrongTrustDomain, "wrong_trust_domain")
}

// The control plane's bundle outlives the certificates that come after it, and
// says when a certificate of the root that signs now is due.
func TestPushedBundle(t *testing.T) {
	old, next := newSVIDCA(t), newSVIDCA(t)
	h := holder(t, old.issue(t, "us", time.Hour), old)
	changed := h.Changed()
	steps := []struct {
		bundle  []*x509.Certificate
		current bool
	}{
		{[]*x509.Certificate{old.cert, next.cert}, true},  // the next root spreads
		{[]*x509.Certificate{next.cert, old.cert}, false}, // it signs now
	}
	for i, s := range steps {
		if got := h.SetBundle(s.bundle); got != s.current {
			t.Errorf("step %d: the certificate is of the root that signs: %v, want %v", i, got, s.current)
		}
	}
	select {
	case <-changed:
	default:
		t.Error("nobody heard of the new bundle")
	}
	hold(t, h, next.issue(t, "us", time.Hour), next) // came with the bundle as it was then
	if got := h.Bundle(); len(got) != 2 {
		t.Errorf("%d roots after a renewal, want the two that the control plane sent", len(got))
	}
	if !h.SetBundle([]*x509.Certificate{next.cert}) || len(h.Bundle()) != 1 {
		t.Error("the old root stays")
	}
}
