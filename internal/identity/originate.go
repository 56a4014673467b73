package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// SystemCA as Origination.CAFile means the machine's own trust bundle.
const SystemCA = "system"

// Origination is TLS towards a server outside the mesh: an ordinary server
// certificate on the other side, ours (if any) from files or a secret.
type Origination struct {
	CertFile, KeyFile string // our certificate; "" for none
	CAFile            string // bundle of the server's; "" or SystemCA: the machine's
	CRLFile           string
	Cert, Key, CA     []byte // PEM, instead of the files
	CRL               []byte
	SNI               string
	// Accept decides on the names in the server's certificate (DNS names, URIs,
	// addresses): one must be accepted. nil: the certificate must be valid for
	// SNI; without SNI, whatever the bundle vouches for.
	Accept     func(name string) bool
	SkipVerify bool
	ALPN       []string

	MinVersion   uint16 // default TLS 1.2
	CipherSuites []uint16
	Curves       []tls.CurveID
}

// Config returns the client configuration. Files are read when they are needed
// and again when they change: a missing one fails the handshakes of this
// cluster, not the whole configuration.
func (o Origination) Config() *tls.Config {
	src := &materials{o: o}
	c := &tls.Config{
		MinVersion: max(o.MinVersion, tls.VersionTLS12), CipherSuites: o.CipherSuites, CurvePreferences: o.Curves, ServerName: o.SNI, NextProtos: o.ALPN, ClientSessionCache: tls.NewLRUClientSessionCache(64),
		// Names and chains are VerifyConnection's, which also runs when a session
		// is resumed.
		InsecureSkipVerify: true,
	}
	if o.CertFile != "" || len(o.Cert) > 0 {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return src.certificate() }
	}
	if !o.SkipVerify {
		c.VerifyConnection = src.verify
	}
	return c
}

// materials reads what an Origination names.
type materials struct {
	o              Origination
	cert, key      file
	ca, crl        file
	mu             sync.Mutex // guards what was parsed from them
	pair           *tls.Certificate
	pairFrom       time.Time
	roots          *x509.CertPool
	rootsFrom      time.Time
	revocations    []*x509.RevocationList
	revocationFrom time.Time
}

func (m *materials) certificate() (*tls.Certificate, error) {
	cert, certTime, err := m.cert.read(m.o.CertFile, m.o.Cert)
	if err != nil {
		return nil, err
	}
	key, keyTime, err := m.key.read(m.o.KeyFile, m.o.Key)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := certTime
	if keyTime.After(at) {
		at = keyTime
	}
	if m.pair != nil && m.pairFrom.Equal(at) {
		return m.pair, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client certificate and key: %w", err)
	}
	m.pair, m.pairFrom = &pair, at
	return m.pair, nil
}

// bundle is what servers must chain to; nil is the machine's.
func (m *materials) bundle() (*x509.CertPool, error) {
	if len(m.o.CA) == 0 && (m.o.CAFile == "" || m.o.CAFile == SystemCA) {
		return x509.SystemCertPool()
	}
	text, at, err := m.ca.read(m.o.CAFile, m.o.CA)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.roots == nil || !m.rootsFrom.Equal(at) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, errors.New("the CA bundle holds no certificate")
		}
		m.roots, m.rootsFrom = pool, at
	}
	return m.roots, nil
}

func (m *materials) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &VerifyError{Reason: NoCertificate}
	}
	roots, err := m.bundle()
	if err != nil {
		return err
	}
	leaf := cs.PeerCertificates[0]
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if m.o.Accept == nil {
		opts.DNSName = m.o.SNI
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return refused(err, leaf)
	}
	if m.o.Accept != nil && !slices.ContainsFunc(alternativeNames(leaf), m.o.Accept) {
		return unexpected(leaf)
	}
	return m.revoked(chains)
}

// revoked checks the chains against the revocation lists, if there are any.
func (m *materials) revoked(chains [][]*x509.Certificate) error {
	if m.o.CRLFile == "" && len(m.o.CRL) == 0 {
		return nil
	}
	lists, err := m.lists()
	if err != nil {
		return err
	}
	return unrevoked(chains, lists)
}

func (m *materials) lists() ([]*x509.RevocationList, error) {
	text, at, err := m.crl.read(m.o.CRLFile, m.o.CRL)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revocations != nil && m.revocationFrom.Equal(at) {
		return m.revocations, nil
	}
	lists, err := revocationLists(text)
	if err != nil {
		return nil, err
	}
	m.revocations, m.revocationFrom = lists, at
	return lists, nil
}

// file is a file's content, read again when its modification time changes.
type file struct {
	mu   sync.Mutex
	at   time.Time
	text []byte
}

const maxPEM = 4 << 20

// read returns inline, or else the file.
func (f *file) read(path string, inline []byte) ([]byte, time.Time, error) {
	if len(inline) > 0 {
		return inline, time.Time{}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	if info.Size() > maxPEM {
		return nil, time.Time{}, fmt.Errorf("%s is larger than %d bytes", path, maxPEM)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.text == nil || !f.at.Equal(info.ModTime()) {
		if f.text, err = os.ReadFile(path); err != nil {
			return nil, time.Time{}, err
		}
		f.at = info.ModTime()
	}
	return f.text, f.at, nil
}
