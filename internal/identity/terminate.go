package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Termination is TLS towards clients outside the mesh: a gateway's side.
type Termination struct {
	Certificates []ServerCertificate // the first that the client can verify is shown
	ALPN         []string
	MinVersion   uint16 // default TLS 1.2
	MaxVersion   uint16
	CipherSuites []uint16 // of TLS 1.2; nil: Go's choice
	Curves       []tls.CurveID

	// Clients: a certificate is required, or checked where one is shown. It must
	// chain to the bundle (if there is one), not be revoked, carry a name that
	// Accept takes (nil: any) and, where any are listed, be one of SPKI or Hashes.
	Require, Optional bool
	CA, CRL           []byte // PEM
	CAFile, CRLFile   string // instead
	Accept            func(name string) bool
	SPKI              []string // base64 SHA-256 of the public key
	Hashes            []string // hex SHA-256 of the certificate
}

// ServerCertificate is a chain with its key: PEM, or files that are read again
// when they change.
type ServerCertificate struct {
	Cert, Key, Staple []byte
	CertFile, KeyFile string
}

// Config makes the configuration. Inline PEM that does not parse is an error;
// a file that is missing fails handshakes until it is there.
func (t Termination) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: max(t.MinVersion, tls.VersionTLS12), MaxVersion: t.MaxVersion, NextProtos: t.ALPN, CipherSuites: t.CipherSuites, CurvePreferences: t.Curves}
	var shown []*shownCertificate
	for _, sc := range t.Certificates {
		s := &shownCertificate{from: sc}
		if sc.CertFile == "" {
			if _, err := s.get(); err != nil {
				return nil, err
			}
		}
		shown = append(shown, s)
	}
	if len(shown) == 0 {
		return nil, errors.New("a certificate is needed")
	}
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return choose(shown, hello) }
	if !t.Require && !t.Optional {
		return tolerant(c), nil
	}
	if c.ClientAuth = tls.RequestClientCert; t.Require {
		c.ClientAuth = tls.RequireAnyClientCert
	}
	clients := &clientCheck{t: t}
	if t.CAFile == "" {
		if _, _, err := clients.trust(); err != nil {
			return nil, err
		}
	}
	// VerifyConnection also runs when a session is resumed: a bundle that
	// changed ends its sessions.
	c.VerifyConnection = clients.verify
	return tolerant(c), nil
}

// tolerant makes the server go on without ALPN where it and the client have no
// protocol in common, as Envoy does. crypto/tls would break the handshake off
// (RFC 7301, section 3.2), and clients of other protocols use gateways too.
func tolerant(c *tls.Config) *tls.Config {
	if len(c.NextProtos) == 0 {
		return c
	}
	without := c.Clone()
	without.NextProtos = nil
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) > 0 && !slices.ContainsFunc(hello.SupportedProtos, func(p string) bool { return slices.Contains(c.NextProtos, p) }) {
			return without, nil
		}
		return nil, nil
	}
	return c
}

// choose takes the first certificate that the client can use, else the first.
func choose(shown []*shownCertificate, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var first *tls.Certificate
	var failed error
	for _, s := range shown {
		c, err := s.get()
		if err != nil {
			failed = err
			continue
		}
		if len(shown) == 1 || hello.SupportsCertificate(c) == nil {
			return c, nil
		}
		if first == nil {
			first = c
		}
	}
	if first == nil {
		return nil, failed
	}
	return first, nil
}

// shownCertificate is a ServerCertificate parsed.
type shownCertificate struct {
	from ServerCertificate

	mu     sync.Mutex // guards what follows
	parsed *tls.Certificate
	at     [2]time.Time // of the files
}

func (s *shownCertificate) get() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cert, key := s.from.Cert, s.from.Key
	if s.from.CertFile != "" {
		at := [2]time.Time{modified(s.from.CertFile), modified(s.from.KeyFile)}
		if s.parsed != nil && at == s.at {
			return s.parsed, nil
		}
		var err error
		if cert, err = os.ReadFile(s.from.CertFile); err != nil {
			return nil, err
		}
		if key, err = os.ReadFile(s.from.KeyFile); err != nil {
			return nil, err
		}
		s.at = at
	} else if s.parsed != nil {
		return s.parsed, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	pair.OCSPStaple = s.from.Staple
	s.parsed = &pair
	return s.parsed, nil
}

// modified is a file's modification time; the zero time when it is not there.
func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// clientCheck decides on clients' certificates.
type clientCheck struct {
	t Termination

	mu    sync.Mutex // guards what follows
	roots *x509.CertPool
	lists []*x509.RevocationList
	at    [2]time.Time
}

// trust is the bundle (nil: none is configured) and its revocation lists.
func (k *clientCheck) trust() (*x509.CertPool, []*x509.RevocationList, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ca, crl := k.t.CA, k.t.CRL
	at := [2]time.Time{}
	if k.t.CAFile != "" {
		at[0] = modified(k.t.CAFile)
	}
	if k.t.CRLFile != "" {
		at[1] = modified(k.t.CRLFile)
	}
	if k.roots != nil && at == k.at {
		return k.roots, k.lists, nil
	}
	var err error
	if k.t.CAFile != "" {
		if ca, err = os.ReadFile(k.t.CAFile); err != nil {
			return nil, nil, err
		}
	}
	if k.t.CRLFile != "" {
		if crl, err = os.ReadFile(k.t.CRLFile); err != nil {
			return nil, nil, err
		}
	}
	if len(ca) == 0 {
		if len(k.t.SPKI)+len(k.t.Hashes) > 0 {
			return nil, nil, nil
		}
		return nil, nil, errors.New("mutual TLS needs a CA bundle (ca.crt), and there is none")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, nil, errors.New("the CA bundle holds no certificate")
	}
	var lists []*x509.RevocationList
	if k.t.CRLFile != "" || len(crl) > 0 {
		if lists, err = revocationLists(crl); err != nil {
			return nil, nil, err
		}
	}
	k.roots, k.lists, k.at = roots, lists, at
	return roots, lists, nil
}

func (k *clientCheck) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		if k.t.Require {
			return &VerifyError{Reason: NoCertificate}
		}
		return nil
	}
	roots, lists, err := k.trust()
	if err != nil {
		return err
	}
	leaf := cs.PeerCertificates[0]
	if roots != nil {
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		for _, c := range cs.PeerCertificates[1:] {
			opts.Intermediates.AddCert(c)
		}
		chains, err := leaf.Verify(opts)
		if err != nil {
			return refused(err, leaf)
		}
		if err := unrevoked(chains, lists); err != nil {
			return err
		}
	}
	if k.t.Accept != nil && !slices.ContainsFunc(alternativeNames(leaf), k.t.Accept) {
		return unexpected(leaf)
	}
	if len(k.t.SPKI)+len(k.t.Hashes) > 0 && !k.pinned(leaf) {
		return errors.New("the certificate is none of those that verifyCertificateSpki and verifyCertificateHash list")
	}
	return nil
}

// pinned: Envoy takes either list's word.
func (k *clientCheck) pinned(leaf *x509.Certificate) bool {
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	if slices.Contains(k.t.SPKI, base64.StdEncoding.EncodeToString(key[:])) {
		return true
	}
	whole := sha256.Sum256(leaf.Raw)
	return slices.ContainsFunc(k.t.Hashes, func(h string) bool {
		return strings.EqualFold(strings.ReplaceAll(h, ":", ""), hex.EncodeToString(whole[:]))
	})
}
