package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuer signs tokens with one key of each kind.
type issuer struct {
	rsa   *rsa.PrivateKey
	ec    map[jose.SignatureAlgorithm]*ecdsa.PrivateKey
	ed    ed25519.PrivateKey
	other *ecdsa.PrivateKey // in no key set
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	out := &issuer{ec: map[jose.SignatureAlgorithm]*ecdsa.PrivateKey{}}
	var err error
	out.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	for alg, curve := range map[jose.SignatureAlgorithm]elliptic.Curve{jose.ES256: elliptic.P256(), jose.ES384: elliptic.P384(), jose.ES512: elliptic.P521()} {
		out.ec[alg], err = ecdsa.GenerateKey(curve, rand.Reader)
		must(err)
	}
	_, out.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	out.other, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return out
}

func (i *issuer) key(alg jose.SignatureAlgorithm) (crypto.Signer, string) {
	switch {
	case alg == jose.EdDSA:
		return i.ed, "ed"
	case i.ec[alg] != nil:
		return i.ec[alg], "ec-" + string(alg)
	}
	return i.rsa, "rsa"
}

// keys is the published document.
func (i *issuer) keys(t testing.TB) string {
	t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.rsa.Public(), KeyID: "rsa"}, {Key: i.ed.Public(), KeyID: "ed"}}}
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512} {
		k, id := i.key(alg)
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: id, Algorithm: string(alg)})
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type claims map[string]any

// sign makes a token with the key of the algorithm.
func (i *issuer) sign(t testing.TB, alg jose.SignatureAlgorithm, c any) string {
	t.Helper()
	key, kid := i.key(alg)
	return signed(t, alg, key, map[string]any{"kid": kid, "typ": "JWT"}, c)
}

// signed makes a token with any key and header.
func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, head map[string]any, c any) string {
	t.Helper()
	opts := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{}}
	for k, v := range head {
		opts.ExtraHeaders[jose.HeaderKey(k)] = v
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	payload, ok := c.(string)
	if !ok {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		payload = string(b)
	}
	jws, err := s.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// raw makes a token by hand; sum may make its signature.
func raw(head, payload string, sum func(input string) []byte) string {
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64([]byte(head)) + "." + b64([]byte(payload))
	if sum == nil {
		return input + "." + b64([]byte("signature"))
	}
	return input + "." + b64(sum(input))
}

func hs256(secret []byte) func(string) []byte {
	return func(input string) []byte {
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(input))
		return m.Sum(nil)
	}
}

// now is when the tests are.
var now = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func in(d time.Duration) int64 { return now.Add(d).Unix() }

// good is a payload that is accepted, with changes; nil deletes a claim.
func good(changes claims) claims {
	c := claims{"iss": "https://issuer.example.com", "sub": "alice", "aud": "shop", "exp": in(time.Hour), "iat": in(-time.Minute)}
	for k, v := range changes {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}
