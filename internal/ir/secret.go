package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Secret is a certificate with its key, or a trust bundle, that a gateway or
// an originating sidecar needs beyond its own identity. It never prints its
// key: formatting, logging and JSON show a fingerprint.
type Secret struct {
	Name   string
	Cert   []byte // PEM chain, leaf first
	Key    []byte // PEM private key; empty for a bundle
	CA     []byte // PEM certificates that peers must chain to
	CRL    []byte // PEM revocation lists of CA
	Staple []byte // OCSP response for Cert, DER
	Origin Origin
}

// The methods have value receivers: a copied Secret must not print itself either.

// Fingerprint identifies the content without revealing it.
func (s Secret) Fingerprint() string {
	h := sha256.New()
	for _, part := range [][]byte{s.Cert, s.Key, s.CA, s.CRL, s.Staple} {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (s Secret) String() string   { return "secret " + s.Name + " (" + s.Fingerprint() + ")" }
func (s Secret) GoString() string { return s.String() }

// MarshalJSON implements json.Marshaler; there is no way back.
func (s Secret) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"name": s.Name, "fingerprint": s.Fingerprint(), "origin": s.Origin})
}
