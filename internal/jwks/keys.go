// Package jwks reads the public keys that issuers of tokens publish, and
// fetches them from where they are published. What it accepts is bounded and
// public: a symmetric key in a document that everybody can read is no key.
package jwks

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Bounds of a document. RFC 7518 section 3.3 asks for RSA keys of 2048 bits at
// least; the upper bound keeps one verification cheap.
const (
	MaxDocument = 1 << 20 // bytes
	MaxKeys     = 64
	minRSA      = 2048
	maxRSA      = 8192
)

// Key is one public key. ID and Algorithm are empty where the document does
// not say.
type Key struct {
	ID, Algorithm string
	Public        any // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// Parse reads a JWK Set (RFC 7517), or the older form that Google still
// publishes: an object of key IDs and PEM certificates. Keys that cannot
// verify signatures are passed over, as RFC 7517 section 5 asks; a document
// without any usable key is an error that says why.
func Parse(document []byte) ([]Key, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the key set has %d bytes, more than %d", len(document), MaxDocument)
	}
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &set); err != nil {
		return nil, fmt.Errorf("the key set is not JSON: %w", err)
	}
	if set.Keys == nil {
		return certificates(document)
	}
	if len(*set.Keys) > MaxKeys {
		return nil, fmt.Errorf("the key set has %d keys, more than %d", len(*set.Keys), MaxKeys)
	}
	var out []Key
	var passed []string
	for i, raw := range *set.Keys {
		k, err := read(raw)
		if err != nil {
			passed = append(passed, fmt.Sprintf("keys[%d]: %v", i, err))
			continue
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the key set has no usable key%s", because(passed))
	}
	return out, nil
}

func because(passed []string) string {
	if len(passed) == 0 {
		return ""
	}
	return ": " + strings.Join(passed[:min(len(passed), 3)], "; ")
}

func read(raw json.RawMessage) (Key, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(raw); err != nil {
		return Key{}, errors.New(strings.TrimPrefix(err.Error(), "go-jose/go-jose: "))
	}
	if k.Use != "" && k.Use != "sig" {
		return Key{}, fmt.Errorf("its use is %q, not sig", k.Use)
	}
	public := k.Public() // an issuer that publishes its private key has other worries
	return usable(Key{ID: k.KeyID, Algorithm: k.Algorithm, Public: public.Key})
}

// usable checks the key's type and size.
func usable(k Key) (Key, error) {
	switch p := k.Public.(type) {
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < minRSA || n > maxRSA {
			return Key{}, fmt.Errorf("an RSA key of %d bits; %d to %d are accepted", n, minRSA, maxRSA)
		}
		if p.E < 3 || p.E%2 == 0 {
			return Key{}, fmt.Errorf("the RSA exponent %d is not valid", p.E)
		}
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, p.Curve) {
			return Key{}, errors.New("the curve is not supported")
		}
	case ed25519.PublicKey:
	default:
		return Key{}, errors.New("not a public key")
	}
	return k, nil
}

// certificates reads {"key id": "-----BEGIN CERTIFICATE-----…"}. The dates of
// such certificates mean nothing: the document that lists them vouches for them.
func certificates(document []byte) ([]Key, error) {
	var list map[string]string
	if err := json.Unmarshal(document, &list); err != nil || len(list) == 0 {
		return nil, errors.New(`the key set has no "keys"`)
	}
	if len(list) > MaxKeys {
		return nil, fmt.Errorf("the key set has %d keys, more than %d", len(list), MaxKeys)
	}
	var out []Key
	for id, text := range list {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		if k, err := usable(Key{ID: id, Public: c.PublicKey}); err == nil {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, errors.New(`the key set has neither "keys" nor certificates`)
	}
	slices.SortFunc(out, func(a, b Key) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Fits reports whether the key is of the kind that the signature algorithm
// (RFC 7518 section 3.1) is defined for.
func (k *Key) Fits(algorithm string) bool {
	switch p := k.Public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[algorithm] == p.Curve
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}
