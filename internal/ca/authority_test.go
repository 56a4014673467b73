package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

var worker = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "worker"}

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func csr(t *testing.T, tmpl x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// signed is a chain that the authority made, parsed: leaf first, roots apart.
func signed(t *testing.T, a *Authority, request []byte, ttl time.Duration) (chain, roots []*x509.Certificate) {
	t.Helper()
	text, err := a.Sign(request, worker, ttl)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range text[:len(text)-1] {
		parsed, err := ParseCertificates([]byte(c))
		if err != nil || len(parsed) != 1 {
			t.Fatalf("chain: %d certificates in one element, %v", len(parsed), err)
		}
		chain = append(chain, parsed[0])
	}
	roots, err = ParseCertificates([]byte(text[len(text)-1]))
	if err != nil {
		t.Fatal(err)
	}
	return chain, roots
}

func verify(chain, roots []*x509.Certificate) error {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range roots {
		o.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	return err
}

// Workloads may bring any of the three kinds of key; the certificate is for
// the identity that was proved, whatever the request asks for.
func TestSignKeys(t *testing.T) {
	a := authority(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stolen, _ := url.Parse("spiffe://cluster.local/ns/shop/sa/admin")
	tests := []struct {
		name string
		key  crypto.Signer
		want string // of the error
	}{
		{"P-256", key(t), ""}, {"P-521", large, ""}, {"Ed25519", edwards, ""}, {"RSA 2048", strong, ""},
		{"RSA 1024", weak, "an RSA key of 1024 bits"}, {"P-224", small, "an ECDSA key of 224 bits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			request := csr(t, x509.CertificateRequest{URIs: []*url.URL{stolen}, DNSNames: []string{"istiod.istio-system.svc"}}, tt.key)
			if tt.want != "" {
				if _, err := a.Sign(request, worker, 0); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want %q", err, tt.want)
				}
				return
			}
			chain, roots := signed(t, a, request, 0)
			if err := verify(chain, roots); err != nil {
				t.Fatal(err)
			}
			leaf := chain[0]
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != worker.String() || len(leaf.DNSNames) != 0 {
				t.Errorf("names %v %v, want only %s", leaf.URIs, leaf.DNSNames, worker)
			}
			if life := leaf.NotAfter.Sub(leaf.NotBefore); life != DefaultTTL+backdate || time.Since(leaf.NotBefore) < backdate {
				t.Errorf("valid for %s from %s ago, want %s, backdated by %s", life, time.Since(leaf.NotBefore), DefaultTTL, backdate)
			}
			if leaf.IsCA || len(chain) != 2 || !chain[1].IsCA || !chain[1].MaxPathLenZero {
				t.Errorf("want a leaf under one issuing intermediate that may sign leaves only")
			}
		})
	}
}

func TestSignRefusesRequests(t *testing.T) {
	a := authority(t)
	good := csr(t, x509.CertificateRequest{}, key(t))
	block, _ := pem.Decode(good)
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	for name, request := range map[string][]byte{
		"empty":            nil,
		"not PEM":          []byte("hello"),
		"a certificate":    encode(a.current().cert),
		"two requests":     append(append([]byte(nil), good...), good...),
		"too large":        append(good, make([]byte, maxCSR)...),
		"broken signature": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}),
	} {
		if _, err := a.Sign(request, worker, 0); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// A certificate never outlives the one that signs it, and none is made by an
// authority that has ended.
func TestSignWithinTheIssuersLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t)
		request := csr(t, x509.CertificateRequest{}, key(t))
		advance(intermediateLifetime - time.Hour)
		chain, roots := signed(t, a, request, 0)
		if !chain[0].NotAfter.Equal(chain[1].NotAfter) {
			t.Errorf("leaf until %s, issuer until %s", chain[0].NotAfter, chain[1].NotAfter)
		}
		if err := verify(chain, roots); err != nil {
			t.Error(err)
		}
		advance(2 * time.Hour)
		if _, err := a.Sign(request, worker, 0); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("an authority past its end signed: %v", err)
		}
	})
}

// advance lets virtual time pass.
func advance(d time.Duration) { <-time.NewTimer(d).C }

// openssl, which operators check with, accepts the chain, also across a change
// of root.
func TestOpenSSLVerifies(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	a := authority(t)
	check := func(chain []string, roots string) {
		t.Helper()
		dir := t.TempDir()
		for name, text := range map[string]string{"leaf.pem": chain[0], "chain.pem": strings.Join(chain[1:len(chain)-1], ""), "roots.pem": roots} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, purpose := range []string{"sslserver", "sslclient"} {
			cmd := exec.Command(openssl, "verify", "-x509_strict", "-no-CAfile", "-no-CApath", "-trusted", "roots.pem", "-untrusted", "chain.pem", "-purpose", purpose, "leaf.pem")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", purpose, err, out)
			}
		}
	}
	request := csr(t, x509.CertificateRequest{}, key(t))
	before, err := a.Sign(request, worker, 0)
	if err != nil {
		t.Fatal(err)
	}
	check(before, before[len(before)-1])
	next, err := NewIssuer("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.prepare(next); err != nil {
		t.Fatal(err)
	}
	a.change()
	after, err := a.Sign(request, worker, 0)
	if err != nil {
		t.Fatal(err)
	}
	check(before, string(a.Roots()))
	check(after, string(a.Roots()))
	check(after, after[len(after)-1])
}

// A root changes in three steps. At no moment does a workload that has heard of
// the last one meet a certificate that it does not trust, and in the end the
// old root is gone, not before the last certificate of it has ended.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t)
		request := csr(t, x509.CertificateRequest{}, key(t))
		old, oldRoots := signed(t, a, request, time.Hour)
		next, err := NewIssuer("cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		type step struct {
			phase Phase
			roots int
			first bool // the first root is the new one
		}
		var steps []step
		trusted := oldRoots // by every workload
		start := time.Now()
		announce := func(context.Context) error {
			fresh, roots := signed(t, a, request, time.Hour)
			if err := verify(fresh, trusted); err != nil {
				t.Errorf("before it was announced: %v", err)
			}
			trusted = roots
			steps = append(steps, step{a.Status().Phase, len(roots), roots[0].Equal(next.roots[0])})
			if time.Since(start) < time.Hour {
				if err := verify(old, trusted); err != nil {
					t.Errorf("after %s, %s: an old certificate: %v", time.Since(start), a.Status().Phase, err)
				}
			}
			if a.Status().Phase != Stable {
				if err := a.Rotate(t.Context(), next, nil); err != ErrRotating {
					t.Errorf("two changes of root at a time: %v", err)
				}
			}
			advance(time.Minute) // until every workload has heard
			return nil
		}
		// Certificates of the old root are made while the new one spreads.
		if err := a.Rotate(t.Context(), next, announce); err != nil {
			t.Fatal(err)
		}
		want := []step{{Spreading, 2, false}, {Overlapping, 2, true}, {Stable, 1, true}}
		if fmt.Sprint(steps) != fmt.Sprint(want) {
			t.Errorf("steps %v, want %v", steps, want)
		}
		if err := verify(old, trusted); err == nil {
			t.Error("the old root is trusted after the change")
		}
		if took := time.Since(start); took < time.Hour || took > time.Hour+5*time.Minute {
			t.Errorf("took %s; the last old certificate lived for an hour", took)
		}
	})
}

// Nothing changes when the new root cannot be spread, and both stay trusted
// when a change is given up later.
func TestRotateFails(t *testing.T) {
	a := authority(t)
	before := string(a.Roots())
	next, err := NewIssuer("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	fail := errors.New("a proxy does not answer")
	calls := 0
	if err := a.Rotate(t.Context(), next, func(context.Context) error { calls++; return fail }); !errors.Is(err, fail) {
		t.Fatal(err)
	}
	if string(a.Roots()) != before || a.Status().Phase != Stable || calls != 2 {
		t.Errorf("phase %s after a first step that failed (announced %d times)", a.Status().Phase, calls)
	}
	signed(t, a, csr(t, x509.CertificateRequest{}, key(t)), time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	err = a.Rotate(ctx, next, func(context.Context) error {
		if a.Status().Phase == Overlapping {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(a.roots()) != 2 {
		t.Errorf("given up while both are in use: %v, %d roots", err, len(a.roots()))
	}
	if err := a.Retire(); err != nil { // the old key was stolen
		t.Error(err)
	}
	if len(a.roots()) != 1 || !a.roots()[0].Equal(next.roots[0]) {
		t.Error("the old root stays after Retire")
	}
}

// Retire ends the overlap of a change that waits for its old certificates: the
// change is over at once, and the next one may begin.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t)
		if _, _, err := a.Overlap(); err != ErrNotOverlapping || a.Retire() != ErrNotOverlapping {
			t.Errorf("nothing to retire: %v", err)
		}
		old, _ := signed(t, a, csr(t, x509.CertificateRequest{}, key(t)), 24*time.Hour)
		before := a.roots()[0]
		next, err := NewIssuer("cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		announced := 0
		done := make(chan error, 1)
		go func() {
			done <- a.Rotate(t.Context(), next, func(context.Context) error {
				if announced++; announced == 1 && a.Retire() != ErrNotOverlapping {
					t.Error("the old root goes before the new one signs")
				}
				return nil
			})
		}()
		synctest.Wait() // for the end of the old certificates
		stay, leave, err := a.Overlap()
		if err != nil || len(stay) != 1 || !stay[0].Equal(next.roots[0]) || len(leave) != 1 || !leave[0].Equal(before) {
			t.Errorf("%d stay, %d leave, %v", len(stay), len(leave), err)
		}
		began := time.Now()
		if err := a.Retire(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || time.Since(began) > 0 || announced != 2 {
			t.Errorf("the change ended with %v after %s, announced %d times", err, time.Since(began), announced)
		}
		if err := verify(old, a.roots()); err == nil || a.Status().Phase != Stable {
			t.Errorf("%s, and a certificate of the old root: %v", a.Status().Phase, err)
		}
		if err := a.Rotate(t.Context(), next, func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

// The control plane's own certificate follows the root.
func TestServerTLSFollowsTheRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t)
		conf := a.ServerTLS("istiod.istio-system.svc")
		shown := func() *tls.Certificate {
			c, err := conf.GetCertificate(&tls.ClientHelloInfo{})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		first := shown()
		if shown() != first {
			t.Error("a new certificate for every handshake")
		}
		advance(serverTTL/2 + time.Minute)
		second := shown()
		if second == first || time.Until(second.Leaf.NotAfter) < serverTTL-time.Minute {
			t.Error("not renewed at half of its life")
		}
		next, err := NewIssuer("cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		if err := a.prepare(next); err != nil {
			t.Fatal(err)
		}
		if shown() != second {
			t.Error("the new root signs before it is spread")
		}
		a.change()
		if err := shown().Leaf.CheckSignatureFrom(next.cert); err != nil {
			t.Errorf("after the change: %v", err)
		}
	})
}
