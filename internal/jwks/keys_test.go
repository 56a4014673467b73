package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func jwk(t testing.TB, key any, change func(*jose.JSONWebKey)) string {
	t.Helper()
	k := jose.JSONWebKey{Key: key, KeyID: "k"}
	if change != nil {
		change(&k)
	}
	b, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func set(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func TestParse(t *testing.T) {
	ec := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := ec(elliptic.P256())
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, p256.Public(), p256)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := json.Marshal(map[string]string{"c1": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), "c2": "x"})
	if err != nil {
		t.Fatal(err)
	}
	small := `{"kty":"RSA","kid":"small","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString(make1024()) + `"}`
	good := jwk(t, p256.Public(), nil)
	for _, tc := range []struct {
		name, document string
		ids            string // of the keys; "" for an error
		err            string
	}{
		{"every kind", set(jwk(t, rsaKey.Public(), nil), good, jwk(t, ec(elliptic.P384()).Public(), nil), jwk(t, ec(elliptic.P521()).Public(), nil), jwk(t, ed.Public(), nil)), "k k k k k", ""},
		{"a private key is taken for its public half", set(jwk(t, p256, nil)), "k", ""},
		{"what cannot be used is passed over", set(good, `{"kty":"new"}`, `{"kty":"oct","k":"c2VjcmV0"}`, `{}`, `1`, small, jwk(t, p256.Public(), func(k *jose.JSONWebKey) { k.Use = "enc" })), "k", ""},
		{"certificates by key ID", string(certificate), "c1", ""},
		{"symmetric", set(`{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}`), "", "not a public key"},
		{"small RSA", set(small), "", "RSA key of 1024 bits"},
		{"for encryption", set(jwk(t, p256.Public(), func(k *jose.JSONWebKey) { k.Use = "enc" })), "", `use is "enc"`},
		{"not on the curve", set(strings.Replace(good, `"y":"`, `"y":"AAAA`, 1)), "", "no usable key"},
		{"no keys", `{"keys":[]}`, "", "no usable key"},
		{"keys missing", `{}`, "", `no "keys"`},
		{"keys null", `{"keys":null}`, "", "neither"},
		{"neither keys nor certificates", `{"a":"b"}`, "", "neither"},
		{"not JSON", `<html>`, "", "not JSON"},
		{"empty", ``, "", "not JSON"},
		{"too many", set(strings.Split(strings.Repeat(good+" ", MaxKeys+1), " ")[:MaxKeys+1]...), "", fmt.Sprintf("more than %d", MaxKeys)},
		{"too large", strings.Repeat(" ", MaxDocument+1), "", fmt.Sprintf("more than %d", MaxDocument)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			keys, err := Parse([]byte(tc.document))
			var ids []string
			for _, k := range keys {
				ids = append(ids, k.ID)
				if _, private := k.Public.(crypto.Signer); private {
					t.Errorf("%T is kept", k.Public)
				}
			}
			if got := strings.Join(ids, " "); got != tc.ids || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("have %q, %v; want %q, %q", got, err, tc.ids, tc.err)
			}
		})
	}
}

// make1024 is a modulus of 1024 bits.
func make1024() []byte {
	b := make([]byte, 128)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AA"},{"kty":"RSA","n":"AA","e":"AQAB"}]}`))
	f.Add([]byte(`{"a":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := Parse(b)
		if err == nil && len(keys) == 0 || err != nil && len(keys) > 0 {
			t.Errorf("%d keys and %v", len(keys), err)
		}
		for _, k := range keys {
			if _, err := usable(k); err != nil {
				t.Error(err)
			}
		}
	})
}
