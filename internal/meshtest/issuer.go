package meshtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"sigs.k8s.io/yaml"
)

// issuer signs tokens and publishes its keys, at URL/keys and by discovery.
type issuer struct {
	url string

	mu     sync.Mutex
	keys   []jose.JSONWebKey // guarded by mu; private; the newest for each algorithm signs
	count  int               // of keys made
	down   bool
	hangs  bool
	status int // 0: 200
}

func newIssuer(url string) (*issuer, error) {
	i := &issuer{url: url}
	return i, i.rotate()
}

// rotate makes new keys; the old ones are not published any more.
func (i *issuer) rotate() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	i.count++
	n := strconv.Itoa(i.count)
	i.keys = []jose.JSONWebKey{{Key: ec, KeyID: "ec" + n, Algorithm: "ES256", Use: "sig"}, {Key: ed, KeyID: "ed" + n, Algorithm: "EdDSA", Use: "sig"}}
	return nil
}

// document is the JWK Set.
func (i *issuer) document() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	set := jose.JSONWebKeySet{}
	for _, k := range i.keys {
		set.Keys = append(set.Keys, k.Public())
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic(err) // plain keys: cannot fail
	}
	return b
}

// behave is "issuer NAME: WHAT".
func (i *issuer) behave(what string) error {
	if what == "new keys" {
		return i.rotate()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down, i.hangs, i.status = what == "down", what == "hangs", 0
	if n, ok := strings.CutPrefix(what, "status "); ok {
		var err error
		i.status, err = strconv.Atoi(n)
		return err
	}
	if what != "down" && what != "hangs" && what != "normal" {
		return fmt.Errorf("%q is nothing an issuer can do (down, hangs, status N, new keys, normal)", what)
	}
	return nil
}

// RoundTrip implements http.RoundTripper: issuers are reached past the network.
func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	w.issuersMu.Lock()
	var at *issuer
	for _, i := range w.issuers {
		if strings.HasPrefix(req.URL.String(), i.url+"/") {
			at = i
		}
	}
	w.issuersMu.Unlock()
	if at == nil {
		return nil, fmt.Errorf("no issuer at %s", req.URL)
	}
	at.mu.Lock()
	down, hangs, status := at.down, at.hangs, at.status
	at.mu.Unlock()
	if hangs {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	if down {
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	body := at.document()
	asked := *req.URL
	asked.RawQuery = ""
	switch path := strings.TrimPrefix(asked.String(), at.url); {
	case status != 0:
		body = nil
	case path == "/.well-known/openid-configuration":
		body, status = []byte(`{"issuer":"`+at.url+`","jwks_uri":"`+at.url+`/keys"}`), http.StatusOK
	case path == "/keys":
		status = http.StatusOK
	default:
		body, status = nil, http.StatusNotFound
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: req}, nil
}

// issuer is "issuer NAME at URL" or "issuer NAME: WHAT".
func (r *runner) issuer(text string) error {
	w := r.world
	if name, what, ok := strings.Cut(text, ": "); ok {
		i := w.issuers[name]
		if i == nil {
			return fmt.Errorf("no issuer %q", name)
		}
		return i.behave(what)
	}
	name, url, ok := strings.Cut(text, " at ")
	if !ok {
		return fmt.Errorf("want \"issuer NAME at URL\" or \"issuer NAME: WHAT\"")
	}
	i, err := newIssuer(url)
	if err != nil {
		return err
	}
	w.issuersMu.Lock()
	w.issuers[name] = i
	w.issuersMu.Unlock()
	return nil
}

// token is "token NAME from ISSUER: CLAIMS", CLAIMS a YAML flow mapping. Unless
// it says otherwise, iss is the issuer and exp in an hour; times may be written
// as +1h or -5m from now. Below may stand "alg ALG", "kid KID", "signed by ISSUER".
func (r *runner) token(st *step, text string) error {
	head, body, ok := strings.Cut(text, ": ")
	name, from, ok2 := strings.Cut(head, " from ")
	i := r.world.issuers[from]
	if !ok || !ok2 || i == nil {
		return fmt.Errorf("want \"token NAME from ISSUER: {claim: value, …}\", the issuer made before")
	}
	claims := map[string]any{}
	if err := yaml.Unmarshal([]byte(body), &claims); err != nil {
		return err
	}
	if _, ok := claims["iss"]; !ok {
		claims["iss"] = i.url
	}
	if _, ok := claims["exp"]; !ok {
		claims["exp"] = "+1h"
	}
	for _, c := range []string{"exp", "nbf", "iat"} {
		if s, ok := claims[c].(string); ok {
			d, err := time.ParseDuration(s)
			if err != nil {
				return err
			}
			claims[c] = time.Now().Add(d).Unix()
		}
	}
	alg, kid, signer := "ES256", "", i
	for _, l := range st.block {
		word, value, _ := strings.Cut(l.text, " ")
		switch word {
		case "alg":
			alg = value
		case "kid":
			kid = value
		case "signed":
			if signer = r.world.issuers[strings.TrimPrefix(value, "by ")]; signer == nil {
				return fmt.Errorf("line %d: no such issuer", l.line)
			}
		default:
			return fmt.Errorf("line %d: %q is nothing a token can have (alg, kid, signed by)", l.line, l.text)
		}
	}
	made, err := signer.sign(alg, kid, claims)
	if err != nil {
		return err
	}
	r.tokens["$"+name] = made
	return nil
}

// sign makes a token with the issuer's key for alg; "none" has no signature.
func (i *issuer) sign(alg, kid string, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	if alg == "none" {
		return encode(`{"alg":"none"}`) + "." + encode(string(payload)) + "." + encode("none"), nil
	}
	var key crypto.PrivateKey
	i.mu.Lock()
	for _, k := range i.keys {
		if k.Algorithm == alg {
			key = k.Key
			if kid == "" {
				kid = k.KeyID
			}
		}
	}
	i.mu.Unlock()
	if key == nil {
		return "", fmt.Errorf("issuers of scripts sign with ES256 and EdDSA, not %s", alg)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		return "", err
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

var tokenName = regexp.MustCompile(`\$[A-Za-z0-9_]+`)

// fill puts tokens in the place of their names, "$NAME".
func (r *runner) fill(s string) string {
	if strings.IndexByte(s, '$') < 0 {
		return s
	}
	return tokenName.ReplaceAllStringFunc(s, func(name string) string {
		if t, ok := r.tokens[name]; ok {
			return t
		}
		return name
	})
}

// fillKeys puts an issuer's keys in the place of "$keys(NAME)".
func (w *world) fillKeys(s string) string {
	for name, i := range w.issuers {
		s = strings.ReplaceAll(s, "$keys("+name+")", string(i.document()))
	}
	return s
}
