package identity

import (
	"bytes"
	"crypto/tls"
	"slices"
)

// wrapSession seals a session ticket together with the trust bundle's hash.
func (h *Holder) wrapSession(cs tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
	if now := h.current.Load(); now != nil {
		s.Extra = append(s.Extra, now.bundle[:])
	}
	return h.tickets.EncryptTicket(cs, s)
}

// unwrapSession opens a ticket. One from before a change of the trust bundle is
// as if it were not there: the peer does a full handshake and shows its current
// certificate. Without that a peer whose old root was withdrawn would present
// the old session again and again and be refused each time.
func (h *Holder) unwrapSession(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	s, err := h.tickets.DecryptTicket(ticket, cs)
	now := h.current.Load()
	if err != nil || s == nil || now == nil {
		return nil, err
	}
	if !slices.ContainsFunc(s.Extra, func(b []byte) bool { return bytes.Equal(b, now.bundle[:]) }) {
		return nil, nil
	}
	return s, nil
}
