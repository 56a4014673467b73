// Package ca is the mesh's certificate authority: it signs short-lived SVIDs
// for identities that somebody else has proved, over Istio's CreateCertificate
// service, renews them on the client's side, and changes its root without
// anybody noticing.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	rootLifetime         = 10 * 365 * 24 * time.Hour
	intermediateLifetime = 365 * 24 * time.Hour
	// DefaultTTL and MaxTTL of workload certificates (Istio's 24h and 90d).
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 90 * 24 * time.Hour
	backdate   = 2 * time.Minute // clocks differ; Istio does the same
	// serverTTL is the life of the control plane's own certificate, which is
	// renewed at half of it.
	serverTTL = 24 * time.Hour
)

// Authority signs certificates with an issuing intermediate under a root. Safe
// for concurrent use; its keys never leave it and never print.
type Authority struct {
	mu     sync.Mutex // guards what follows
	signer *Issuer    // signs
	next   *Issuer    // is trusted already and signs nothing yet; nil outside of a rotation
	old    *outgoing  // nil outside of a rotation
	until  time.Time  // when the last certificate that signer signed ends
	bundle []byte     // the trust bundle as PEM; nil: to be made anew
}

// String names the authority without its keys.
func (a *Authority) String() string { return "authority " + a.current().cert.Subject.String() }

// GoString implements fmt.GoStringer.
func (a *Authority) GoString() string { return a.String() }

// New makes an authority with a fresh self-signed root, in memory.
func New(trustDomain string) (*Authority, error) {
	i, err := NewIssuer(trustDomain)
	if err != nil {
		return nil, err
	}
	return NewAuthority(i), nil
}

// NewAuthority signs with i.
func NewAuthority(i *Issuer) *Authority { return &Authority{signer: i} }

func (a *Authority) current() *Issuer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.signer
}

// Roots is the trust bundle, PEM. The root that signs now comes first: a
// workload whose certificate is another's renews it (see Rotate).
// Read-only.
func (a *Authority) Roots() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bundle == nil {
		a.bundle = encode(a.rootsLocked()...)
	}
	return a.bundle
}

func (a *Authority) roots() []*x509.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rootsLocked()
}

func (a *Authority) rootsLocked() []*x509.Certificate {
	var out []*x509.Certificate
	issuers := []*Issuer{a.signer, a.next}
	if a.old != nil {
		issuers = append(issuers, a.old.issuer)
	}
	for _, i := range issuers {
		if i == nil {
			continue
		}
		for _, r := range i.roots {
			if !slices.ContainsFunc(out, r.Equal) {
				out = append(out, r)
			}
		}
	}
	return out
}

// Sign issues a certificate for the identity of the caller; what names the CSR
// asks for is ignored. The chain is PEM, leaf first, root last, as Istio's
// CreateCertificate returns it. ttl 0 means DefaultTTL; more than MaxTTL is cut.
func (a *Authority) Sign(csrPEM []byte, id identity.ID, ttl time.Duration) ([]string, error) {
	public, err := parseCSR(csrPEM)
	if err != nil {
		return nil, err
	}
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	u, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	leaf, by, err := a.issue(&x509.Certificate{
		URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public, min(ttl, MaxTTL), true)
	if err != nil {
		return nil, err
	}
	chain := []string{string(encode(leaf))}
	return append(append(chain, by.chainPEM...), string(a.Roots())), nil
}

// issue signs a leaf with whoever signs now. For a workload it remembers until
// when that one's root must be trusted.
func (a *Authority) issue(tmpl *x509.Certificate, public crypto.PublicKey, ttl time.Duration, workload bool) (*x509.Certificate, *Issuer, error) {
	now := time.Now()
	a.mu.Lock()
	by := a.signer
	tmpl.NotBefore, tmpl.NotAfter, tmpl.BasicConstraintsValid = now.Add(-backdate), now.Add(ttl), true
	if tmpl.NotAfter.After(by.cert.NotAfter) {
		tmpl.NotAfter = by.cert.NotAfter
	}
	if workload && tmpl.NotAfter.After(a.until) {
		a.until = tmpl.NotAfter
	}
	a.mu.Unlock()
	if !tmpl.NotAfter.After(now) {
		return nil, nil, fmt.Errorf("the authority's own certificate ended on %s: give it a new one", by.cert.NotAfter.Format(time.DateOnly))
	}
	leaf, err := sign(tmpl, by.cert, public, by.key)
	return leaf, by, err
}

// ServerCertificate issues a server's certificate for names outside of SPIFFE.
func (a *Authority) ServerCertificate(dnsNames ...string) (*tls.Certificate, error) {
	return a.serverCertificate(serverNamesTTL, dnsNames)
}

// serverNamesTTL is the life of certificates that nobody renews: as long as the
// issuer's.
const serverNamesTTL = intermediateLifetime

func (a *Authority) serverCertificate(ttl time.Duration, dnsNames []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, by, err := a.issue(&x509.Certificate{DNSNames: dnsNames, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key.Public(), ttl, false)
	if err != nil {
		return nil, err
	}
	return by.certificateOf(leaf, key), nil
}

// ServerPEM issues a server certificate like ServerCertificate, as the PEM
// texts of a kubernetes.io/tls Secret.
func (a *Authority) ServerPEM(dnsNames ...string) (chain, key []byte, err error) {
	c, err := a.ServerCertificate(dnsNames...)
	if err != nil {
		return nil, nil, err
	}
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ServerTLS is the control plane's own side of TLS: a certificate for dnsNames
// that is made anew at half of its life and when another root signs.
func (a *Authority) ServerTLS(dnsNames ...string) *tls.Config {
	var mu sync.Mutex
	var cert *tls.Certificate
	var by *Issuer
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if now := a.current(); cert == nil || by != now || time.Until(cert.Leaf.NotAfter) < serverTTL/2 {
			fresh, err := a.serverCertificate(serverTTL, dnsNames)
			if err != nil {
				return nil, err
			}
			cert, by = fresh, now
		}
		return cert, nil
	}}
}
