package ca

import (
	"context"
	"errors"
	"fmt"
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

// Status may be called at any time.
func (a *Authority) Status() Status {
	s := Status{Phase: Stable}
	for _, r := range a.roots() {
		s.Roots = append(s.Roots, r.Subject.String()+" serial "+r.SerialNumber.Text(16))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Issuer, s.NotAfter = a.signer.cert.Subject.String()+" serial "+a.signer.cert.SerialNumber.Text(16), a.signer.cert.NotAfter
	switch {
	case a.next != nil:
		s.Phase = Spreading
	case a.old != nil:
		s.Phase, s.OldUntil = Overlapping, a.oldEnd
	}
	return s
}

// ErrRotating: one change of root at a time.
var ErrRotating = errors.New("a change of root is under way")

// Rotate changes to next so that no connection fails: its root is trusted
// everywhere before anything is signed with it; then it signs; and when the
// last certificate of the old issuer has ended, the old root is trusted no
// more. announce is called after each step, with Roots as they are from then
// on; it returns when every workload has them.
//
// It takes as long as the old certificates live. When announce fails in the
// first step nothing has changed; when ctx ends later, both roots stay trusted,
// which is safe, and Retire may end it.
func (a *Authority) Rotate(ctx context.Context, next *Issuer, announce func(context.Context) error) error {
	if err := a.prepare(next); err != nil {
		return err
	}
	if err := announce(ctx); err != nil {
		a.abandon()
		return fmt.Errorf("the new root is not trusted everywhere, nothing was signed with it: %w", errors.Join(err, announce(ctx)))
	}
	a.change()
	if err := announce(ctx); err != nil {
		return fmt.Errorf("both roots stay trusted: %w", err)
	}
	if err := a.outlive(ctx); err != nil {
		return fmt.Errorf("both roots stay trusted: %w", err)
	}
	a.Retire()
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
func (a *Authority) change() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.old, a.signer, a.next = a.signer, a.next, nil
	a.oldEnd, a.until, a.bundle = a.until, time.Time{}, nil
}

// outlive waits for the end of the last certificate of the old issuer.
func (a *Authority) outlive(ctx context.Context) error {
	a.mu.Lock()
	wait := time.Until(a.oldEnd)
	a.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Retire withdraws the old root at once, whether or not certificates of it are
// still in use: peers refuse them from the next handshake on. For a key that
// was stolen; otherwise Rotate does it when its time has come.
func (a *Authority) Retire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.old, a.oldEnd, a.bundle = nil, time.Time{}, nil
}
