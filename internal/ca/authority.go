// Package ca is the mesh's certificate authority: it signs short-lived SVIDs
// for identities that somebody else has proved, over Istio's CreateCertificate
// service, and renews them on the client's side.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
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
	maxCSR     = 32 << 10
)

// Authority signs certificates with an issuing intermediate under a root. Safe
// for concurrent use; its keys never leave it and never print.
type Authority struct {
	root   *x509.Certificate
	issuer *x509.Certificate
	key    crypto.Signer
	chain  [][]byte // PEM between leaf and root
	bundle []byte   // PEM roots
}

// String names the authority without its keys.
func (a *Authority) String() string { return "authority " + a.issuer.Subject.String() }

// GoString implements fmt.GoStringer.
func (a *Authority) GoString() string { return a.String() }

// New makes an authority with a fresh self-signed root, in memory.
func New(trustDomain string) (*Authority, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	root, err := sign(&x509.Certificate{
		Subject: pkix.Name{Organization: []string{trustDomain}, CommonName: "Tulle root CA"}, NotBefore: now.Add(-backdate), NotAfter: now.Add(rootLifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	issuer, err := sign(&x509.Certificate{
		Subject: pkix.Name{Organization: []string{trustDomain}, CommonName: "Tulle issuing CA"}, NotBefore: now.Add(-backdate), NotAfter: now.Add(intermediateLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	// The root's key is not kept: only the intermediate signs from here on.
	return &Authority{root: root, issuer: issuer, key: key, chain: [][]byte{encode(issuer)}, bundle: encode(root)}, nil
}

// Load reads a plugged-in authority as Istio's secret cacerts holds it:
// ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem in dir.
func Load(dir string) (*Authority, error) {
	files := map[string][]byte{}
	for _, name := range []string{"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("plugged-in CA: %w", err)
		}
		files[name] = b
	}
	pair, err := tls.X509KeyPair(files["ca-cert.pem"], files["ca-key.pem"])
	if err != nil {
		return nil, fmt.Errorf("plugged-in CA: ca-cert.pem and ca-key.pem: %w", err)
	}
	issuer, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("plugged-in CA: ca-cert.pem: %w", err)
	}
	roots, err := ParseCertificates(files["root-cert.pem"])
	if err != nil {
		return nil, fmt.Errorf("plugged-in CA: root-cert.pem: %w", err)
	}
	chain, err := ParseCertificates(files["cert-chain.pem"])
	if err != nil {
		return nil, fmt.Errorf("plugged-in CA: cert-chain.pem: %w", err)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	a := &Authority{root: roots[0], issuer: issuer, bundle: files["root-cert.pem"]}
	for _, c := range chain {
		between.AddCert(c)
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			a.chain = append(a.chain, encode(c))
		}
	}
	if !issuer.IsCA {
		return nil, errors.New("plugged-in CA: ca-cert.pem may not sign certificates (basic constraints)")
	}
	if _, err := issuer.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("plugged-in CA: ca-cert.pem does not chain to root-cert.pem: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("plugged-in CA: ca-key.pem cannot sign")
	}
	a.key = signer
	return a, nil
}

// Roots is the trust bundle, PEM.
func (a *Authority) Roots() []byte { return a.bundle }

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
	now := time.Now()
	end := now.Add(min(ttl, MaxTTL))
	if end.After(a.issuer.NotAfter) {
		end = a.issuer.NotAfter
	}
	u, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	leaf, err := sign(&x509.Certificate{
		URIs: []*url.URL{u}, NotBefore: now.Add(-backdate), NotAfter: end, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.issuer, public, a.key)
	if err != nil {
		return nil, err
	}
	return a.withChain(leaf), nil
}

func (a *Authority) withChain(leaf *x509.Certificate) []string {
	chain := []string{string(encode(leaf))}
	for _, c := range a.chain {
		chain = append(chain, string(c))
	}
	return append(chain, string(a.bundle))
}

// ServerCertificate issues the control plane's own certificate.
func (a *Authority) ServerCertificate(dnsNames ...string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	leaf, err := sign(&x509.Certificate{
		DNSNames: dnsNames, NotBefore: now.Add(-backdate), NotAfter: a.issuer.NotAfter, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.issuer, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, c := range a.chain {
		block, _ := pem.Decode(c)
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	return cert, nil
}

// parseCSR returns the public key of a request whose signature proves that the
// caller has the private one.
func parseCSR(csrPEM []byte) (crypto.PublicKey, error) {
	if len(csrPEM) > maxCSR {
		return nil, fmt.Errorf("certificate request: more than %d bytes", maxCSR)
	}
	block, rest := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("certificate request: want one PEM block CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: signature: %w", err)
	}
	switch k := csr.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return nil, fmt.Errorf("certificate request: an RSA key of %d bits (2048 to 8192 are accepted)", bits)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("certificate request: key type %T is not accepted", k)
	}
	return csr.PublicKey, nil
}

func sign(tmpl, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// ParseCertificates reads every certificate of a PEM text.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return out, nil
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
