package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Holder has the workload's current SVID and trust bundle. One writer (the
// rotator) calls Set; everything else may be called from any goroutine.
type Holder struct {
	trustDomain string
	current     atomic.Pointer[state]
	ready       chan struct{}
	once        sync.Once
	sessions    tls.ClientSessionCache
	// tickets holds the keys that seal session tickets, for all servers of this
	// workload and across changes of their configuration. crypto/tls makes a new
	// key every day and opens tickets for a week at most; no other workload and
	// no other process has them.
	tickets *tls.Config
}

type state struct {
	cert  *tls.Certificate
	leaf  *x509.Certificate
	roots *x509.CertPool
	list  []*x509.Certificate
	// bundle is the hash of the trust bundle; sessions begun under another one
	// are not resumed.
	bundle [sha256.Size]byte

	verified verified
}

// NewHolder returns a holder without certificate.
func NewHolder(trustDomain string) *Holder {
	return &Holder{trustDomain: trustDomain, ready: make(chan struct{}), sessions: tls.NewLRUClientSessionCache(1024), tickets: &tls.Config{}}
}

// Set replaces certificate and bundle together. The chain is leaf first.
func (h *Holder) Set(cert tls.Certificate, roots []*x509.Certificate) error {
	if len(cert.Certificate) == 0 || len(roots) == 0 {
		return errors.New("identity: certificate and roots are needed")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("identity: leaf: %w", err)
	}
	cert.Leaf = leaf
	s := &state{cert: &cert, leaf: leaf, roots: x509.NewCertPool(), list: roots}
	for _, r := range roots {
		s.roots.AddCert(r)
	}
	s.bundle = hashChain(roots)
	h.current.Store(s)
	h.once.Do(func() { close(h.ready) })
	return nil
}

// Ready is closed once a certificate is there.
func (h *Holder) Ready() <-chan struct{} { return h.ready }

// Info describes what is held, without secrets.
type Info struct {
	URI       string    `json:"uri"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Issuer    string    `json:"issuer"`
	Roots     []Root    `json:"roots"`
}

// Root is one certificate of the trust bundle.
type Root struct {
	Subject     string    `json:"subject"`
	Serial      string    `json:"serial"`
	NotAfter    time.Time `json:"notAfter"`
	Fingerprint string    `json:"sha256"`
}

// Serial is the current certificate's serial number, hexadecimal; "" before the
// first.
func (h *Holder) Serial() string {
	s := h.current.Load()
	if s == nil {
		return ""
	}
	return s.leaf.SerialNumber.Text(16)
}

// Info returns the current state; zero before the first certificate.
func (h *Holder) Info() Info {
	s := h.current.Load()
	if s == nil {
		return Info{}
	}
	info := Info{Serial: s.leaf.SerialNumber.Text(16), NotBefore: s.leaf.NotBefore, NotAfter: s.leaf.NotAfter, Issuer: s.leaf.Issuer.String()}
	if len(s.leaf.URIs) > 0 {
		info.URI = s.leaf.URIs[0].String()
	}
	for _, r := range s.list {
		sum := sha256.Sum256(r.Raw)
		info.Roots = append(info.Roots, Root{r.Subject.String(), r.SerialNumber.Text(16), r.NotAfter, hex.EncodeToString(sum[:])})
	}
	return info
}

// String, GoString and LogValue keep the private key out of every log.
func (h *Holder) String() string {
	i := h.Info()
	return "identity " + i.URI + " serial " + i.Serial
}

// GoString implements fmt.GoStringer.
func (h *Holder) GoString() string { return h.String() }

// LogValue implements slog.LogValuer.
func (h *Holder) LogValue() slog.Value { return slog.StringValue(h.String()) }
