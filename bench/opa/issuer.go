package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuer signs tokens with a key of its own.
type issuer struct {
	signer jose.Signer
	data   string // the policy's, with the public key
}

// newIssuer signs by ES256, or by RS256 with a key of 2048 bits.
func newIssuer(alg jose.SignatureAlgorithm) (*issuer, error) {
	var key crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.RS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, fmt.Errorf("no key for algorithm %s", alg)
	}
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "demo"))
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(map[string]any{"jwks": jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "demo", Algorithm: string(alg), Use: "sig"}}}})
	return &issuer{signer, string(data)}, err
}

// token is another one for each id.
func (i *issuer) token(id string) (string, error) {
	b, err := json.Marshal(map[string]any{"iss": "https://researchflow.example", "aud": "researchflow-api", "sub": "vera", "roles": []string{"viewer"},
		"exp": time.Now().Add(time.Hour).Unix(), "jti": id})
	if err != nil {
		return "", err
	}
	o, err := i.signer.Sign(b)
	if err != nil {
		return "", err
	}
	return o.CompactSerialize()
}
