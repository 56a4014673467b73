package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Files of a plugged-in authority, as Istio's Secret cacerts names them.
const (
	certFile  = "ca-cert.pem"    // the issuing certificate
	keyFile   = "ca-key.pem"     // its key
	chainFile = "cert-chain.pem" // from it to the root
	rootsFile = "root-cert.pem"  // what workloads trust
)

// Issuer is what certificates are signed with: an issuing certificate, its key
// and the chain to its root. It is immutable; the key never leaves it but by
// Save, and never prints.
type Issuer struct {
	cert     *x509.Certificate
	key      crypto.Signer
	chain    []*x509.Certificate // what peers need between a leaf and a root, the issuing certificate first
	chainPEM []string
	roots    []*x509.Certificate // the one that chain leads to first, then others that the folder lists
}

// String names the issuer without its key.
func (i *Issuer) String() string { return "issuer " + i.cert.Subject.String() }

// GoString implements fmt.GoStringer.
func (i *Issuer) GoString() string { return i.String() }

// NewIssuer makes an issuer under a fresh self-signed root, in memory. The
// root's key is not kept: only the intermediate signs from here on.
func NewIssuer(trustDomain string) (*Issuer, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	authority := func(name string, life time.Duration) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{Organization: []string{trustDomain}, CommonName: name}, NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	root, err := sign(authority("Tulle root CA", rootLifetime), nil, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := authority("Tulle issuing CA", intermediateLifetime)
	tmpl.MaxPathLenZero = true // it signs leaves, no further authorities
	cert, err := sign(tmpl, root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	i := &Issuer{cert: cert, key: key}
	return i, i.link(nil, []*x509.Certificate{root})
}

// LoadIssuer reads a plugged-in authority from dir. The key must be readable by
// its owner only; the certificate must be one that may sign and that chains to
// root-cert.pem now.
func LoadIssuer(dir string) (*Issuer, error) {
	i, err := loadIssuer(dir)
	if err != nil {
		return nil, fmt.Errorf("plugged-in CA %s: %w", dir, err)
	}
	return i, nil
}

func loadIssuer(dir string) (*Issuer, error) {
	certs := map[string][]*x509.Certificate{}
	for _, name := range []string{certFile, chainFile, rootsFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if certs[name], err = ParseCertificates(text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	key, err := readKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	return PlugIn(certs[certFile][0], key, certs[chainFile], certs[rootsFile])
}

// PlugIn makes an issuer of what somebody else made: an issuing certificate
// with its key, the certificates between it and its root (others are passed
// over), and the roots that workloads trust. Errors name Istio's files.
func PlugIn(cert *x509.Certificate, key crypto.Signer, between, roots []*x509.Certificate) (*Issuer, error) {
	i := &Issuer{cert: cert, key: key}
	switch public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); {
	case !ok || !public.Equal(cert.PublicKey):
		return nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	case !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%s may not sign certificates (basic constraints, key usage)", certFile)
	}
	return i, i.link(between, roots)
}

// link finds the way to the root: peers get what lies between, and the root
// that it ends at comes first in the bundle.
func (i *Issuer) link(between, roots []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range roots {
		opts.Roots.AddCert(c)
	}
	for _, c := range between {
		opts.Intermediates.AddCert(c)
	}
	chains, err := i.cert.Verify(opts)
	if err != nil {
		return fmt.Errorf("%s does not chain to %s: %w", certFile, rootsFile, err)
	}
	chain := chains[0]
	root := chain[len(chain)-1]
	i.chain = chain[:len(chain)-1] // empty where the root itself signs
	for _, c := range i.chain {
		i.chainPEM = append(i.chainPEM, string(encode(c)))
	}
	i.roots = append([]*x509.Certificate{root}, slices.DeleteFunc(slices.Clone(roots), root.Equal)...)
	return nil
}

// readKey reads a private key that nobody else may read.
func readKey(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o): chmod 600 it", keyFile, mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", keyFile)
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return key, nil
}

// parseKey takes the three forms that openssl and Istio's tools write.
func parseKey(der []byte) (crypto.Signer, error) {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if s, ok := k.(crypto.Signer); ok {
			return s, nil
		}
		return nil, fmt.Errorf("a key of type %T cannot sign", k)
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	return nil, errors.New("not a private key in PKCS #8, PKCS #1 or SEC 1 form")
}

// Save writes the issuer as LoadIssuer reads it: a folder that only its owner
// may enter (0700), files that only the owner may read (0600). The key comes
// last, so that a folder with a key is whole.
func (i *Issuer) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{
		{certFile, encode(i.cert)},
		{chainFile, encode(append(slices.Clone(i.chain), i.roots[0])...)},
		{rootsFile, encode(i.roots...)},
		{keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})},
	} {
		if err := replaceFile(filepath.Join(dir, f.name), f.text); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile never leaves half a file behind.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

func sign(tmpl, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encode(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes everything
	}
	return out.Bytes()
}

// ParseCertificates reads every certificate of a PEM text.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return out, nil
}

// certificateOf makes a TLS certificate of a leaf that i signed.
func (i *Issuer) certificateOf(leaf *x509.Certificate, key crypto.Signer) *tls.Certificate {
	out := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, c := range i.chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}
