package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// maxVerified bounds the chains that are remembered; when it is reached all are
// forgotten and verified again as they come.
const maxVerified = 1024

// verified remembers which chains were good under one trust bundle: a peer
// presents the same bytes with every connection, and with a resumed session
// verifying them would be most of the work. It belongs to one state, so that a
// new bundle starts with nothing.
type verified struct {
	mu     sync.Mutex
	chains map[verifiedKey]validity
}

// verifiedKey is the hash of all certificates that the peer sent, in order, and
// what they were verified for.
type verifiedKey struct {
	chain [sha256.Size]byte
	usage x509.ExtKeyUsage
}

// validity is when every certificate of a chain is valid, the root included.
type validity struct{ from, to time.Time }

// verifyChain checks that the peer's certificates chain to the bundle, may be
// used for usage and are valid now.
func (s *state) verifyChain(peer []*x509.Certificate, usage x509.ExtKeyUsage) error {
	key, now := verifiedKey{hashChain(peer), usage}, time.Now()
	if v, ok := s.verified.get(key); ok && !now.Before(v.from) && !now.After(v.to) {
		return nil
	}
	opts := options(nil, peer, usage)
	opts.Roots, opts.CurrentTime = s.roots, now
	chains, err := peer[0].Verify(opts)
	if err != nil {
		return err
	}
	s.verified.put(key, validityOf(chains[0]))
	return nil
}

// options to verify a peer's chain by these roots.
func options(roots, peer []*x509.Certificate, usage x509.ExtKeyUsage) x509.VerifyOptions {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range roots {
		o.Roots.AddCert(c)
	}
	for _, c := range peer[1:] {
		o.Intermediates.AddCert(c)
	}
	return o
}

func hashChain(peer []*x509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, c := range peer {
		h.Write(c.Raw) // DER carries its length: two chains cannot run together
	}
	h.Sum(sum[:0])
	return sum
}

func validityOf(chain []*x509.Certificate) validity {
	v := validity{chain[0].NotBefore, chain[0].NotAfter}
	for _, c := range chain[1:] {
		if c.NotBefore.After(v.from) {
			v.from = c.NotBefore
		}
		if c.NotAfter.Before(v.to) {
			v.to = c.NotAfter
		}
	}
	return v
}

func (v *verified) get(key verifiedKey) (validity, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, ok := v.chains[key]
	return found, ok
}

func (v *verified) put(key verifiedKey, valid validity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.chains == nil || len(v.chains) >= maxVerified {
		v.chains = map[verifiedKey]validity{}
	}
	v.chains[key] = valid
}
