package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	maxCSR = 32 << 10
	// RSA keys below 2048 bits are weak; above 8192 a single check of a
	// signature costs whole milliseconds, which a caller could ask for at will.
	minRSA, maxRSA = 2048, 8192
)

// parseCSR returns the public key of a request whose signature proves that the
// caller has the private one. Names that the request asks for are nobody's
// business: the certificate is for the identity that was proved.
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
	// The key's size first: it bounds what the signature costs.
	if err := acceptable(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: signature: %w", err)
	}
	return csr.PublicKey, nil
}

// acceptable says which keys workloads may have.
func acceptable(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return fmt.Errorf("an RSA key of %d bits (%d to %d are accepted)", bits, minRSA, maxRSA)
		}
	case *ecdsa.PublicKey:
		if bits := k.Curve.Params().BitSize; bits < 256 {
			return fmt.Errorf("an ECDSA key of %d bits (P-256, P-384 and P-521 are accepted)", bits)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("key type %T is not accepted (ECDSA, RSA and Ed25519 are)", key)
	}
	return nil
}
