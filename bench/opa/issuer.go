package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// newIssuer signs tokens, each another; data is the policy's with the key.
func newIssuer() (issue func(n int) (string, error), data string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "demo"))
	if err != nil {
		return nil, "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	data = fmt.Sprintf(`{"jwks": {"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "demo", "x": %q, "y": %q}]}}`,
		b64(key.X.FillBytes(make([]byte, 32))), b64(key.Y.FillBytes(make([]byte, 32))))
	return func(n int) (string, error) {
		b, err := json.Marshal(map[string]any{"iss": "https://researchflow.example", "aud": "researchflow-api", "sub": "vera", "roles": []string{"viewer"},
			"exp": time.Now().Add(time.Hour).Unix(), "jti": fmt.Sprint(n)})
		if err != nil {
			return "", err
		}
		o, err := signer.Sign(b)
		if err != nil {
			return "", err
		}
		return o.CompactSerialize()
	}, data, nil
}
