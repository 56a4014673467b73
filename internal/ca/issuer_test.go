package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A saved authority is the same one when it is loaded, and nobody else may
// read it.
func TestSaveAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cacerts")
	made, err := NewIssuer("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Save(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
	loaded, err := LoadIssuer(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := NewAuthority(loaded)
	chain, _ := signed(t, a, csr(t, x509.CertificateRequest{}, key(t)), 0)
	if err := verify(chain, made.roots); err != nil {
		t.Error(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", loaded, loaded, a); strings.Contains(text, "D:") || !strings.Contains(text, "issuing CA") {
		t.Errorf("prints as %s", text)
	}
}

// pluggedIn is a folder as operators make it with openssl: an offline root, an
// authority of the company under it, and the mesh's under that.
func pluggedIn(t *testing.T, marshal func(crypto.Signer) *pem.Block) (dir string, root *x509.Certificate) {
	t.Helper()
	authority := func(name string, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, *ecdsa.PrivateKey) {
		k := key(t)
		if parentKey == nil {
			parentKey = k
		}
		c, err := sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, parent, k.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		return c, k
	}
	root, rootKey := authority("root", nil, nil)
	company, companyKey := authority("company", root, rootKey)
	mesh, meshKey := authority("mesh", company, companyKey)
	other, _ := authority("another mesh's root", nil, nil)
	dir = t.TempDir()
	for name, text := range map[string][]byte{
		// Istio's documentation puts the whole chain into cert-chain.pem, with
		// the root at its end; the bundle may list other meshes' roots.
		certFile: encode(mesh), chainFile: encode(mesh, company, root), rootsFile: encode(other, root), keyFile: pem.EncodeToMemory(marshal(meshKey)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, root
}

func pkcs8(k crypto.Signer) *pem.Block {
	der, _ := x509.MarshalPKCS8PrivateKey(k)
	return &pem.Block{Type: "PRIVATE KEY", Bytes: der}
}

func sec1(k crypto.Signer) *pem.Block {
	der, _ := x509.MarshalECPrivateKey(k.(*ecdsa.PrivateKey))
	return &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}
}

func TestPluggedIn(t *testing.T) {
	for name, form := range map[string]func(crypto.Signer) *pem.Block{"PKCS #8": pkcs8, "SEC 1": sec1} {
		t.Run(name, func(t *testing.T) {
			dir, root := pluggedIn(t, form)
			i, err := LoadIssuer(dir)
			if err != nil {
				t.Fatal(err)
			}
			chain, roots := signed(t, NewAuthority(i), csr(t, x509.CertificateRequest{}, key(t)), 0)
			if len(chain) != 3 { // leaf, mesh, company
				t.Errorf("%d certificates in the chain, want 3", len(chain))
			}
			if err := verify(chain, []*x509.Certificate{root}); err != nil {
				t.Error(err)
			}
			if len(roots) != 2 || !roots[0].Equal(root) {
				t.Errorf("%d roots, first %s: want both, the signing one first", len(roots), roots[0].Subject)
			}
		})
	}
}

func TestPluggedInRefused(t *testing.T) {
	write := func(dir, name string, text []byte) error { return os.WriteFile(filepath.Join(dir, name), text, 0o600) }
	strange := func(t *testing.T) *Issuer {
		i, err := NewIssuer("elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	tests := []struct {
		name  string
		spoil func(t *testing.T, dir string) error
		want  string
	}{
		{"no key", func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, keyFile)) }, keyFile},
		{"key that others may read", func(_ *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o640) }, "chmod 600"},
		{"key of another", func(t *testing.T, dir string) error { return write(dir, keyFile, pem.EncodeToMemory(pkcs8(key(t)))) }, "is not the key of ca-cert.pem"},
		{"RSA key of another", func(t *testing.T, dir string) error {
			k, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				return err
			}
			return write(dir, keyFile, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
		}, "is not the key of ca-cert.pem"},
		{"no key at all", func(_ *testing.T, dir string) error { return write(dir, keyFile, []byte("secret")) }, "not PEM"},
		{"another root", func(t *testing.T, dir string) error { return write(dir, rootsFile, encode(strange(t).roots...)) }, "does not chain to root-cert.pem"},
		{"no root", func(_ *testing.T, dir string) error { return write(dir, rootsFile, nil) }, "root-cert.pem: no certificate"},
		{"a leaf", func(t *testing.T, dir string) error {
			i, k := strange(t), key(t)
			leaf, err := sign(&x509.Certificate{NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}, i.cert, k.Public(), i.key)
			if err != nil {
				return err
			}
			if err := write(dir, certFile, encode(leaf)); err != nil {
				return err
			}
			return write(dir, keyFile, pem.EncodeToMemory(pkcs8(k)))
		}, "may not sign certificates"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, _ := pluggedIn(t, pkcs8)
			if err := tt.spoil(t, dir); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadIssuer(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
