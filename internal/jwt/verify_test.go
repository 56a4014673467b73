package jwt

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func verifier(t testing.TB, i *issuer, change func(*ir.JWTProvider)) *Verifier {
	t.Helper()
	p := &ir.JWTProvider{Name: "origins-0", Issuer: "https://issuer.example.com", Audiences: []string{"shop"}, Keys: i.keys(t), SpaceDelimited: []string{"permission", "scope"}}
	if change != nil {
		change(p)
	}
	v, err := NewVerifier(p)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Every way in which a token may be good or bad, with what Envoy says of it.
// Each is put to the verifier twice: what it remembers must not change its mind.
func TestVerify(t *testing.T) {
	i := newIssuer(t)
	rsaPEM := func() []byte {
		der, err := x509.MarshalPKIXPublicKey(i.rsa.Public())
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}()
	payload, err := json.Marshal(good(nil))
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.other}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := embedded.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	withOwnKey, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	tampered := func(token string) string {
		parts := strings.Split(token, ".")
		parts[1] = strings.Split(raw("{}", strings.Replace(string(payload), "alice", "admin", 1), nil), ".")[1]
		return strings.Join(parts, ".")
	}
	es := func(c claims) string { return i.sign(t, jose.ES256, good(c)) }
	ecKey := i.ec[jose.ES256]
	type row struct {
		name, token string
		want        reason
	}
	table := []row{
		{"audience in a list", es(claims{"aud": []string{"other", "shop"}}), ""},
		{"audience as a URL", es(claims{"aud": "https://shop/"}), ""},
		{"no expiry", es(claims{"exp": nil}), ""},
		{"expired within the skew", es(claims{"exp": in(-clockSkew * time.Second)}), ""},
		{"not yet valid within the skew", es(claims{"nbf": in(clockSkew * time.Second)}), ""},
		{"without kid", signed(t, jose.ES256, ecKey, nil, good(nil)), ""},

		{"expired", es(claims{"exp": in(-(clockSkew + 1) * time.Second)}), expired},
		{"future", es(claims{"nbf": in((clockSkew + 1) * time.Second)}), notYetValid},
		{"other issuer", es(claims{"iss": "https://evil.example.com"}), unknownIssuer},
		{"issuer that begins alike", es(claims{"iss": "https://issuer.example.com.evil"}), unknownIssuer},
		{"no issuer", es(claims{"iss": nil}), unknownIssuer},
		{"other audience", es(claims{"aud": "bank"}), wrongAudience},
		{"no audience", es(claims{"aud": nil}), wrongAudience},
		{"empty audiences", es(claims{"aud": []string{}}), wrongAudience},
		{"another's key with our kid", signed(t, jose.ES256, i.other, map[string]any{"kid": "ec-ES256"}, good(nil)), wrongSignature},
		{"another's key without kid", signed(t, jose.ES256, i.other, nil, good(nil)), wrongSignature},
		{"wrong kid", signed(t, jose.ES256, ecKey, map[string]any{"kid": "nobody"}, good(nil)), noKey},
		{"kid of a key of another kind", signed(t, jose.ES256, ecKey, map[string]any{"kid": "rsa"}, good(nil)), wrongSignature},
		{"kid of a key for another algorithm", signed(t, jose.ES256, ecKey, map[string]any{"kid": "ec-ES384"}, good(nil)), noKey},
		{"key in its own header", withOwnKey, wrongSignature},
		{"changed payload", tampered(es(nil)), wrongSignature},
		{"critical extension", signed(t, jose.ES256, ecKey, map[string]any{"crit": []string{"exp"}, "exp": 1}, good(nil)), wrongSignature},
		{"unencoded payload", raw(`{"alg":"ES256","b64":false,"crit":["b64"]}`, string(payload), nil), wrongSignature},
		{"unencoded payload that says so to nobody", signed(t, jose.ES256, ecKey, map[string]any{"b64": false}, good(nil)), wrongSignature},

		{"none", raw(`{"alg":"none"}`, string(payload), nil), unknownAlg},
		{"none, empty signature", raw(`{"alg":"none"}`, string(payload), func(string) []byte { return nil }), badFormat},
		{"None", raw(`{"alg":"None"}`, string(payload), nil), unknownAlg},
		{"HS256 with the RSA key as secret", raw(`{"alg":"HS256","kid":"rsa"}`, string(payload), hs256(rsaPEM)), unknownAlg},
		{"HS256 with the key set as secret", raw(`{"alg":"HS256"}`, string(payload), hs256([]byte(i.keys(t)))), unknownAlg},
		{"RS256 announced, HS256 made", raw(`{"alg":"RS256","kid":"rsa"}`, string(payload), hs256(rsaPEM)), wrongSignature},
		{"unknown algorithm", raw(`{"alg":"ES256K"}`, string(payload), nil), unknownAlg},
		{"no alg", raw(`{"kid":"rsa"}`, string(payload), nil), badAlg},
		{"ALG", raw(`{"ALG":"ES256"}`, string(payload), nil), badAlg},
		{"alg twice", raw(`{"alg":"none","alg":"ES256"}`, string(payload), nil), headerJSON},
		{"alg is a number", raw(`{"alg":1}`, string(payload), nil), badAlg},
		{"kid is a number", raw(`{"alg":"ES256","kid":1}`, string(payload), nil), badKid},
		{"EdDSA signature of another length", raw(`{"alg":"EdDSA","kid":"ed"}`, string(payload), nil), signatureLength},

		{"empty", "", badFormat},
		{"two parts", "a.b", badFormat},
		{"four parts", es(nil) + ".x", badFormat},
		{"empty payload", "a..b", badFormat},
		{"no base64", "%%." + strings.SplitN(es(nil), ".", 2)[1], headerBase64},
		{"line break", "\n" + es(nil), headerBase64},
		{"header is no JSON", raw("x", string(payload), nil), headerJSON},
		{"header is null", raw("null", string(payload), nil), headerJSON},
		{"payload is no JSON", raw(`{"alg":"ES256"}`, "x", nil), payloadJSON},
		{"payload is a list", raw(`{"alg":"ES256"}`, "[]", nil), payloadJSON},
		{"payload is no base64", strings.Replace(raw(`{"alg":"ES256"}`, string(payload), nil), ".e", ".*e", 1), payloadBase64},
		{"claim twice", raw(`{"alg":"ES256"}`, `{"iss":"a","iss":"https://issuer.example.com"}`, nil), payloadJSON},
		{"signature is no base64", raw(`{"alg":"ES256"}`, string(payload), nil) + "*", signatureBase64},
		{"iss is a number", es(claims{"iss": 1}), notString("iss")},
		{"sub is a list", es(claims{"sub": []string{"alice"}}), notString("sub")},
		{"exp is text", es(claims{"exp": "tomorrow"}), notInteger("exp")},
		{"exp is negative", es(claims{"exp": -1}), outOfRange("exp")},
		{"exp is beyond all time", es(claims{"exp": 1e30}), outOfRange("exp")},
		{"nbf is text", es(claims{"nbf": "x"}), notInteger("nbf")},
		{"jti is a number", es(claims{"jti": 1}), notString("jti")},
		{"aud is a number", es(claims{"aud": 1}), badAudience},
		{"aud has a number", es(claims{"aud": []any{"shop", 1}}), badAudience},
		{"oversized", es(claims{"x": strings.Repeat("x", MaxToken)}), tooLarge},
	}
	for _, alg := range algorithms {
		table = append(table, row{string(alg), i.sign(t, alg, good(nil)), ""})
	}
	v := verifier(t, i, nil)
	for _, tc := range table {
		t.Run(tc.name, func(t *testing.T) {
			for range 2 {
				got, why := v.verify(tc.token, now.Unix())
				if why != tc.want || why == "" && (got == nil || got.token.Principal() != "https://issuer.example.com/alice") {
					t.Fatalf("have %q (%+v), want %q", why, got, tc.want)
				}
			}
		})
	}
}

// A remembered token ends when it says so, and with the keys.
func TestRememberedTokens(t *testing.T) {
	i := newIssuer(t)
	v := verifier(t, i, nil)
	token := i.sign(t, jose.ES256, good(claims{"nbf": in(0)}))
	at := func(d time.Duration) reason {
		_, why := v.verify(token, in(d))
		return why
	}
	if why := at(0); why != "" {
		t.Fatal(why)
	}
	if why := at(time.Hour + clockSkew*time.Second); why != "" {
		t.Errorf("at the end: %s", why)
	}
	if why := at(time.Hour + (clockSkew+1)*time.Second); why != expired {
		t.Errorf("past its end a remembered token is %q", why)
	}
	if why := at(-(clockSkew + 1) * time.Second); why != notYetValid {
		t.Errorf("before its time a remembered token is %q", why)
	}
	v.cache.mu.Lock()
	for range 2 * generation {
		v.cache.putLocked([32]byte{byte(len(v.cache.young)), byte(len(v.cache.young) >> 8), byte(len(v.cache.old))}, &verified{})
	}
	n := len(v.cache.young) + len(v.cache.old)
	v.cache.mu.Unlock()
	if n > 2*generation {
		t.Errorf("%d tokens are remembered", n)
	}
	if why := at(0); why != "" {
		t.Errorf("a forgotten token is verified again: %s", why)
	}
	for j := range 4 * generationBytes / MaxToken {
		v.cache.put([32]byte{1, byte(j), byte(j >> 8)}, &verified{size: MaxToken})
	}
	held := 0
	for _, half := range []map[[32]byte]*verified{v.cache.young, v.cache.old} {
		for _, k := range half {
			held += k.size
		}
	}
	if held > 2*generationBytes {
		t.Errorf("tokens of %d bytes are remembered", held)
	}
}

func TestAnyIssuerAndMissingKeys(t *testing.T) {
	i := newIssuer(t)
	any := verifier(t, i, func(p *ir.JWTProvider) { p.Issuer, p.Audiences = "", nil })
	if _, why := any.verify(i.sign(t, jose.RS256, good(claims{"iss": "whoever", "aud": nil})), now.Unix()); why != "" {
		t.Errorf("a rule without issuer takes any: %s", why)
	}
	missing := verifier(t, i, func(p *ir.JWTProvider) { p.Keys, p.KeysMissing = "", "no route to host" })
	if _, why := missing.verify(i.sign(t, jose.RS256, good(nil)), now.Unix()); why != noKey {
		t.Errorf("without keys: %q", why)
	}
	if _, err := NewVerifier(&ir.JWTProvider{Name: "origins-0", Keys: "{}"}); err == nil || !strings.Contains(err.Error(), "origins-0") {
		t.Errorf("unreadable keys: %v", err)
	}
}

// RA4 and RA5: what of a token the upstream, policies and routes get.
func TestOutputs(t *testing.T) {
	i := newIssuer(t)
	v := verifier(t, i, func(p *ir.JWTProvider) {
		p.PayloadHeader = "x-payload"
		for _, c := range []string{"sub", "n", "big", "half", "minus", "yes", "list", "object", "realm.role", "a.b", "split", "absent", "padded"} {
			p.ClaimHeaders = append(p.ClaimHeaders, ir.ClaimHeader{Header: "x-" + c, Claim: c})
		}
		p.SpaceDelimited = []string{"scope", "realm.scopes", "n"}
	})
	token := i.sign(t, jose.EdDSA, good(claims{"n": 7, "big": 12345678901, "half": 1.5, "minus": -2, "yes": true, "list": []string{"a"}, "object": claims{},
		"realm": claims{"role": "admin", "scopes": "x  y"}, "a.b": "dotted", "split": "one\r\nx-evil: 1", "scope": "read write", "padded": " x "}))
	got, why := v.verify(token, now.Unix())
	if why != "" {
		t.Fatal(why)
	}
	var headers []string
	for _, f := range got.headers[1:] {
		headers = append(headers, f.Name+": "+f.Value)
	}
	want := []string{"x-sub: alice", "x-n: 7", "x-big: 12345678901", "x-half: 1.500000", "x-minus: -2.000000", "x-yes: true", "x-realm.role: admin", "x-a.b: dotted", "x-padded: x"}
	if !slices.Equal(headers, want) {
		t.Errorf("headers %q\nwant    %q", headers, want)
	}
	if p := got.headers[0]; p.Name != "x-payload" || p.Value != strings.Split(token, ".")[1] {
		t.Errorf("payload header %+v", p)
	}
	for path, want := range map[string][]string{"scope": {"read", "write"}, "realm scopes": {"x", "y"}, "realm role": {"admin"}, "n": nil, "list": {"a"}, "absent": nil, "sub x": nil} {
		var have []string
		got.token.Claim(strings.Fields(path), func(s string) bool { have = append(have, s); return false })
		if !slices.Equal(have, want) {
			t.Errorf("claim %s is %q, want %q", path, have, want)
		}
	}
}
