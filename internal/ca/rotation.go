package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Phase is where a change of root stands.
type Phase string

const (
	// Stable: one issuer signs and its roots are all that is trusted.
	Stable Phase = "stable"
	// Spreading: the next root is trusted, nothing is signed with it yet.
	Spreading Phase = "spreading"
	// Overlapping: the next issuer signs; what the old one signed is still valid.
	Overlapping Phase = "overlapping"
)

// Status describes an authority, without secrets.
type Status struct {
	Phase    Phase     `json:"phase"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"notAfter"` // of the issuing certificate
	Roots    []string  `json:"roots"`    // subjects with serials, the one that signs first
	// OldUntil is when the last certificate of the old issuer ends; only while
	// Overlapping.
	OldUntil time.Time `json:"oldUntil,omitzero"`
}

// Name tells a certificate from its successors, which have the same subject.
func Name(c *x509.Certificate) string {
	return c.Subject.String() + " serial " + c.SerialNumber.Text(16)
}

// outgoing is an issuer that signs no more and is still trusted.
type outgoing struct {
	issuer  *Issuer
	end     time.Time     // when the last certificate that it signed ends
	retired chan struct{} // closed when it is trusted no more
}

// Status may be called at any time.
func (a *Authority) Status() Status {
	s := Status{Phase: Stable}
	for _, r := range a.roots() {
		s.Roots = append(s.Roots, Name(r))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Issuer, s.NotAfter = Name(a.signer.cert), a.signer.cert.NotAfter
	switch {
	case a.next != nil:
		s.Phase = Spreading
	case a.old != nil:
		s.Phase, s.OldUntil = Overlapping, a.old.end
	}
	return s
}

var (
	// ErrRotating: one change of root at a time.
	ErrRotating = errors.New("a change of root is under way")
	// ErrNotOverlapping: there is no old root, or the new one does not sign yet.
	ErrNotOverlapping = errors.New("there is no old root to retire")
)

// Rotate changes to next so that no connection fails: its root is trusted
// everywhere before anything is signed with it; then it signs; and when the
// last certificate of the old issuer has ended, the old root is trusted no
// more. announce is called after each step, with Roots as they are from then
// on; it returns when every workload has them.
//
// It takes as long as the old certificates live, or until Retire. When announce
// fails in the first step nothing has changed; when it fails or ctx ends later,
// both roots stay trusted until Retire, which is safe.
func (a *Authority) Rotate(ctx context.Context, next *Issuer, announce func(context.Context) error) error {
	if err := a.prepare(next); err != nil {
		return err
	}
	if err := announce(ctx); err != nil {
		a.abandon()
		return fmt.Errorf("the new root is not trusted everywhere, nothing was signed with it: %w", errors.Join(err, announce(ctx)))
	}
	old := a.change()
	if err := announce(ctx); err != nil {
		return fmt.Errorf("both roots stay trusted: %w", err)
	}
	if err := old.outlive(ctx); err != nil {
		return fmt.Errorf("both roots stay trusted: %w", err)
	}
	if !a.retire(old) {
		return nil // whoever called Retire announces it
	}
	return announce(ctx)
}

func (a *Authority) prepare(next *Issuer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next != nil || a.old != nil {
		return ErrRotating
	}
	a.next, a.bundle = next, nil
	return nil
}

func (a *Authority) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next, a.bundle = nil, nil
}

// change lets the next issuer sign.
func (a *Authority) change() *outgoing {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.old = &outgoing{issuer: a.signer, end: a.until, retired: make(chan struct{})}
	a.signer, a.next, a.until, a.bundle = a.next, nil, time.Time{}, nil
	return a.old
}

// outlive waits for the end of the last certificate of the old issuer, or for
// the end of the old issuer itself.
func (o *outgoing) outlive(ctx context.Context) error {
	timer := time.NewTimer(time.Until(o.end))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	case <-o.retired:
	}
	return nil
}

// retire ends the trust in an outgoing issuer; false: that has happened before.
func (a *Authority) retire(o *outgoing) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o == nil || a.old != o {
		return false
	}
	a.old, a.bundle = nil, nil
	close(o.retired)
	return true
}

// Overlap is what Retire would leave in the trust bundle and what it would take
// out. Outside of an overlap it fails with ErrNotOverlapping. Nothing leaves
// where the new issuer is under the old one's root.
func (a *Authority) Overlap() (stay, leave []*x509.Certificate, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.old == nil {
		return nil, nil, ErrNotOverlapping
	}
	stay = a.signer.roots
	for _, r := range a.old.issuer.roots {
		if !slices.ContainsFunc(stay, r.Equal) {
			leave = append(leave, r)
		}
	}
	return stay, leave, nil
}

// Retire withdraws the old root at once, whether or not certificates of it are
// still in use: peers refuse them from the next handshake on, once the caller
// has announced Roots. For a key that was stolen, or an overlap that has served
// its purpose; otherwise Rotate does it when its time has come. It fails with
// ErrNotOverlapping.
func (a *Authority) Retire() error {
	a.mu.Lock()
	old := a.old
	a.mu.Unlock()
	if !a.retire(old) {
		return ErrNotOverlapping
	}
	return nil
}
