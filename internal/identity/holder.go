package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Holder has the workload's current SVID and trust bundle. It may be used from
// any goroutine; the rotator calls Set, whoever hears of the control plane's
// bundle SetBundle.
type Holder struct {
	trustDomain string
	current     atomic.Pointer[state]
	mu          sync.Mutex          // taken by writers; guards what follows
	pushed      []*x509.Certificate // the control plane's bundle; nil: it has sent none
	changed     chan struct{}       // closed and made anew with every change; nil: nobody waits
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
	// withdrawn are the last roots that were trusted once: only to tell people
	// why a peer is refused.
	withdrawn []*x509.Certificate

	verified verified
}

// NewHolder returns a holder without certificate.
func NewHolder(trustDomain string) *Holder {
	return &Holder{trustDomain: trustDomain, ready: make(chan struct{}), sessions: tls.NewLRUClientSessionCache(1024), tickets: &tls.Config{}}
}

// Set replaces certificate and bundle together. The chain is leaf first. Where
// the control plane has sent a bundle, that one stays: it is newer than what
// comes with a certificate, or will be in a moment.
func (h *Holder) Set(cert tls.Certificate, roots []*x509.Certificate) error {
	if len(cert.Certificate) == 0 || len(roots) == 0 {
		return errors.New("identity: certificate and roots are needed")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("identity: leaf: %w", err)
	}
	cert.Leaf = leaf
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pushed != nil {
		roots = h.pushed
	}
	h.store(&state{cert: &cert, leaf: leaf}, roots)
	h.once.Do(func() { close(h.ready) })
	return nil
}

// SetBundle replaces the trust bundle by what the control plane says, the root
// that signs first. It holds from the next handshake on, and for every
// certificate that Set brings later. It reports whether the workload's
// certificate is of that root: otherwise the root is changing, and a new
// certificate is due.
func (h *Holder) SetBundle(roots []*x509.Certificate) (current bool) {
	if len(roots) == 0 {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.current.Load()
	if old == nil {
		h.pushed = roots
		return true
	}
	if h.pushed = roots; hashChain(roots) != old.bundle {
		h.store(&state{cert: old.cert, leaf: old.leaf}, roots)
	}
	return old.signedBy(roots[0])
}

// store publishes a state with its bundle. Called with mu held.
func (h *Holder) store(s *state, roots []*x509.Certificate) {
	s.list, s.roots, s.bundle = roots, x509.NewCertPool(), hashChain(roots)
	if old := h.current.Load(); old != nil {
		s.withdrawn = without(append(slices.Clone(old.list), old.withdrawn...), roots)
	}
	for _, r := range roots {
		s.roots.AddCert(r)
	}
	h.current.Store(s)
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// maxWithdrawn bounds the roots that are remembered after they were removed.
const maxWithdrawn = 8

// without returns the certificates of list that are not in trusted, once each.
func without(list, trusted []*x509.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range list {
		if !slices.ContainsFunc(trusted, c.Equal) && !slices.ContainsFunc(out, c.Equal) && len(out) < maxWithdrawn {
			out = append(out, c)
		}
	}
	return out
}

// Changed is closed at the next change of the certificate or the bundle.
func (h *Holder) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.changed
}

// Current is what a holder has at one moment. It holds the key: it is for
// whoever serves the workload itself.
type Current struct {
	ID    ID
	Cert  *tls.Certificate
	Roots []*x509.Certificate
}

// String keeps the key out of logs.
func (c Current) String() string { return "SVID of " + c.ID.String() }

// GoString implements fmt.GoStringer.
func (c Current) GoString() string { return c.String() }

// Current fails before the first certificate. What it returns is read-only.
func (h *Holder) Current() (Current, error) {
	s := h.current.Load()
	if s == nil {
		return Current{}, errors.New("this workload has no certificate yet")
	}
	if len(s.leaf.URIs) != 1 {
		return Current{}, &VerifyError{Reason: NoSPIFFE}
	}
	id, err := ParseID(s.leaf.URIs[0].String())
	return Current{id, s.cert, s.list}, err
}

// Bundle is the trust bundle, nil before the first certificate. Read-only.
func (h *Holder) Bundle() []*x509.Certificate {
	if s := h.current.Load(); s != nil {
		return s.list
	}
	return nil
}

// Pushed is the bundle that the control plane has sent; nil: none. Read-only.
func (h *Holder) Pushed() []*x509.Certificate {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pushed
}

// signedBy reports whether the state's own certificate chains to root.
func (s *state) signedBy(root *x509.Certificate) bool {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: s.leaf.NotBefore}
	opts.Roots.AddCert(root)
	for _, der := range s.cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			opts.Intermediates.AddCert(c)
		}
	}
	_, err := s.leaf.Verify(opts)
	return err == nil
}

// TrustDomain is the workload's own.
func (h *Holder) TrustDomain() string { return h.trustDomain }

// Ready is closed once a certificate is there.
func (h *Holder) Ready() <-chan struct{} { return h.ready }

// Info describes what is held, without secrets.
type Info struct {
	URI       string    `json:"uri"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Issuer    string    `json:"issuer"`
	// Root is the fingerprint of the one of Roots that the certificate chains to;
	// "": none of them any more.
	Root  string `json:"root,omitempty"`
	Roots []Root `json:"roots"`
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
		root := Root{r.Subject.String(), r.SerialNumber.Text(16), r.NotAfter, Fingerprint(r)}
		if info.Root == "" && s.signedBy(r) {
			info.Root = root.Fingerprint
		}
		info.Roots = append(info.Roots, root)
	}
	return info
}

// Fingerprint is the certificate's SHA-256, hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
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
