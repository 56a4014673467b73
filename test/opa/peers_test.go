package opa

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/internal/extauthz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/opa"
	"github.com/tulle-mesh/tulle/internal/rego"
)

const manifests = "../../infrastructure/kubernetes/base/opa/"

// server builds a real OPA once for all tests.
func server(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "opa")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/open-policy-agent/opa").CombinedOutput(); err != nil {
		t.Fatalf("build opa: %v\n%s", err, out)
	}
	return path
}

// freeAddress is one that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// answers waits until url answers 200.
func answers(t testing.TB, url string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return
			}
		}
		<-tick.C
	}
	t.Fatalf("%s never answered", url)
}

// realOPA runs the server on the policy folder; what it decides on an input.
func realOPA(t testing.TB, binary, dir string) func(input any) (result any, ok bool) {
	t.Helper()
	addr := freeAddress(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, "run", "--server", "--addr="+addr, "--log-level=error", dir)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Log(log.String())
		}
	})
	answers(t, "http://"+addr+"/health")
	return func(input any) (any, bool) {
		t.Helper()
		b, err := json.Marshal(map[string]any{"input": input})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post("http://"+addr+"/v1/data/envoy/authz/allow", "application/json", bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var out map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s %v %v", resp.Status, err, out)
		}
		result, ok := out["result"]
		return result, ok
	}
}

// ours runs our server on the policy folder; the address of its ext_authz.
func ours(t testing.TB, dir string) string {
	t.Helper()
	rest, check := freeAddress(t), freeAddress(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- opa.Run(ctx, opa.Options{Paths: []string{dir}, Addr: rest, GRPCAddr: check, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	answers(t, "http://"+rest+"/health")
	return check
}

func client(t testing.TB, addr string) *extauthz.Client {
	t.Helper()
	c, err := extauthz.New(extauthz.Options{Name: "table", Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// sidecar is the engine as a sidecar has it.
func sidecar(t testing.TB, policy, data string) *rego.Decider {
	t.Helper()
	p, err := rego.NewHost(io.Discard, slog.New(slog.DiscardHandler)).Provider(&ir.ExtAuthz{Provider: "table", Timeout: ir.Duration(10 * time.Second),
		Rego: &ir.Rego{Name: "table", Query: rego.Query(""), Modules: map[string]string{"policy.rego": policy}, Data: data}})
	if err != nil {
		t.Fatal(err)
	}
	return p.(*rego.Decider)
}

// write makes a folder of files.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// newTokens signs what the table sends; data is the policy's with our key.
func newTokens(t testing.TB) (tokens map[string]string, data string) {
	t.Helper()
	key, other := newKey(t), newKey(t)
	b64 := base64.RawURLEncoding.EncodeToString
	data = fmt.Sprintf(`{"jwks": {"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "demo", "x": %q, "y": %q}]}}`,
		b64(key.X.FillBytes(make([]byte, 32))), b64(key.Y.FillBytes(make([]byte, 32))))
	now := time.Now().Unix()
	claims := func(role string, edit ...any) map[string]any {
		c := map[string]any{"iss": "https://researchflow.example", "aud": "researchflow-api", "sub": role, "roles": []string{role}, "exp": now + 3600}
		for i := 0; i < len(edit); i += 2 {
			c[edit[i].(string)] = edit[i+1]
			if edit[i+1] == nil {
				delete(c, edit[i].(string))
			}
		}
		return c
	}
	tokens = map[string]string{}
	for _, role := range []string{"viewer", "researcher", "admin", "guest"} {
		tokens[role] = sign(t, jose.ES256, key, claims(role))
	}
	tokens["expired"] = sign(t, jose.ES256, key, claims("viewer", "exp", now-1))
	tokens["not yet"] = sign(t, jose.ES256, key, claims("viewer", "nbf", now+3600))
	tokens["endless"] = sign(t, jose.ES256, key, claims("viewer", "exp", nil))
	tokens["other issuer"] = sign(t, jose.ES256, key, claims("viewer", "iss", "https://elsewhere.example"))
	tokens["other audience"] = sign(t, jose.ES256, key, claims("viewer", "aud", "another-api"))
	tokens["other key"] = sign(t, jose.ES256, other, claims("viewer"))
	tokens["unsigned"] = b64([]byte(`{"alg":"none"}`)) + "." + strings.Split(tokens["admin"], ".")[1] + "."
	parts := strings.Split(tokens["viewer"], ".")
	tokens["tampered"] = parts[0] + "." + strings.Split(tokens["admin"], ".")[1] + "." + parts[2]
	return tokens, data
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "demo"))
	b, merr := json.Marshal(claims)
	if err = errors.Join(err, merr); err != nil {
		t.Fatal(err)
	}
	o, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	token, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
