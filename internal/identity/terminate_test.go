package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// edgeCA issues certificates for names outside the mesh.
type edgeCA struct {
	t      *testing.T
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newEdgeCA(t *testing.T) *edgeCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &edgeCA{t: t, cert: cert, key: key, serial: 1}
}

func (ca *edgeCA) bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

func (ca *edgeCA) issue(name string, key crypto.Signer) (tls.Certificate, []byte, []byte) {
	ca.t.Helper()
	ca.serial++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(ca.serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (ca *edgeCA) revoke(serials ...*big.Int) []byte {
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, ca.cert, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// shake runs both sides; it returns the client's view and the server's error.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		b, err := l.Accept()
		if err == nil {
			err = tls.Server(b, server).Handshake()
			b.Close()
		}
		served <- err
	}()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	client.InsecureSkipVerify = true
	c := tls.Client(a, client)
	err = c.Handshake()
	if serverErr := <-served; serverErr != nil {
		return c.ConnectionState(), serverErr
	}
	return c.ConnectionState(), err
}

func TestTerminationChecksClients(t *testing.T) {
	ca, other := newEdgeCA(t), newEdgeCA(t)
	_, cert, key := ca.issue("web.example.com", ecKey(t))
	base := Termination{Certificates: []ServerCertificate{{Cert: cert, Key: key}}}
	good, _, _ := ca.issue("client.example.com", ecKey(t))
	leaf, _ := x509.ParseCertificate(good.Certificate[0])
	stranger, _, _ := other.issue("client.example.com", ecKey(t))
	spki, whole := sha256.Sum256(leaf.RawSubjectPublicKeyInfo), sha256.Sum256(leaf.Raw)
	with := func(edit func(*Termination)) Termination {
		c := base
		c.CA = ca.bundle()
		edit(&c)
		return c
	}
	cases := []struct {
		name   string
		t      Termination
		client []tls.Certificate
		ok     bool
	}{
		{"simple asks for none", base, nil, true},
		{"mutual without certificate", with(func(c *Termination) { c.Require = true }), nil, false},
		{"mutual", with(func(c *Termination) { c.Require = true }), []tls.Certificate{good}, true},
		{"mutual, another authority", with(func(c *Termination) { c.Require = true }), []tls.Certificate{stranger}, false},
		{"optional without certificate", with(func(c *Termination) { c.Optional = true }), nil, true},
		{"optional with a bad one", with(func(c *Termination) { c.Optional = true }), []tls.Certificate{stranger}, false},
		{"a name that is listed", with(func(c *Termination) {
			c.Require, c.Accept = true, func(n string) bool { return n == "client.example.com" }
		}), []tls.Certificate{good}, true},
		{"a name that is not", with(func(c *Termination) { c.Require, c.Accept = true, func(n string) bool { return n == "x" } }), []tls.Certificate{good}, false},
		{"pinned key", with(func(c *Termination) {
			c.Require, c.SPKI = true, []string{base64.StdEncoding.EncodeToString(spki[:])}
		}), []tls.Certificate{good}, true},
		{"pinned certificate", with(func(c *Termination) { c.Require, c.Hashes = true, []string{hex.EncodeToString(whole[:])} }), []tls.Certificate{good}, true},
		{"pinned to another", with(func(c *Termination) { c.Require, c.Hashes = true, []string{"00"} }), []tls.Certificate{good}, false},
		{"not revoked", with(func(c *Termination) { c.Require, c.CRL = true, ca.revoke() }), []tls.Certificate{good}, true},
		{"revoked", with(func(c *Termination) { c.Require, c.CRL = true, ca.revoke(leaf.SerialNumber) }), []tls.Certificate{good}, false},
		{"a list of another authority only", with(func(c *Termination) { c.Require, c.CRL = true, other.revoke() }), []tls.Certificate{good}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conf, err := c.t.Config()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := shake(t, conf, &tls.Config{Certificates: c.client}); (err == nil) != c.ok {
				t.Fatalf("accepted %v, want %v (%v)", err == nil, c.ok, err)
			}
		})
	}
	if _, err := with(func(c *Termination) { c.Require, c.CA = true, nil }).Config(); err == nil {
		t.Error("mutual TLS without a bundle was accepted")
	}
	for _, text := range []string{"", "no list"} { // named, but it says nothing: nobody may take that for "nothing is revoked"
		file := filepath.Join(t.TempDir(), "crl.pem")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		conf, err := with(func(c *Termination) { c.Require, c.CRLFile = true, file }).Config()
		if err == nil {
			_, err = shake(t, conf, &tls.Config{Certificates: []tls.Certificate{good}})
		}
		if err == nil {
			t.Errorf("a revocation file with %q lets everybody in", text)
		}
	}
}

func TestTerminationChoosesCertificate(t *testing.T) {
	ca := newEdgeCA(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ecCert, ecPEM := ca.issue("web.example.com", ecKey(t))
	_, rsaCert, rsaPEM := ca.issue("web.example.com", rsaKey)
	conf, err := Termination{Certificates: []ServerCertificate{{Cert: ecCert, Key: ecPEM}, {Cert: rsaCert, Key: rsaPEM}}}.Config()
	if err != nil {
		t.Fatal(err)
	}
	for suite, want := range map[uint16]x509.PublicKeyAlgorithm{
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: x509.RSA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: x509.ECDSA,
	} {
		state, err := shake(t, conf, &tls.Config{ServerName: "web.example.com", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		if err != nil {
			t.Fatal(err)
		}
		if got := state.PeerCertificates[0].PublicKeyAlgorithm; got != want {
			t.Errorf("a client with %s was shown %v", tls.CipherSuiteName(suite), got)
		}
	}
}

// A client with other protocols than ours is served without ALPN: it may speak
// whatever is behind a gateway's TCP server.
func TestTerminationWithoutCommonProtocol(t *testing.T) {
	ca := newEdgeCA(t)
	_, cert, key := ca.issue("web.example.com", ecKey(t))
	conf, err := Termination{Certificates: []ServerCertificate{{Cert: cert, Key: key}}, ALPN: []string{"h2", "http/1.1"}}.Config()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		offered []string
		want    string
	}{{[]string{"h2"}, "h2"}, {[]string{"postgresql", "http/1.1"}, "http/1.1"}, {[]string{"postgresql"}, ""}, {nil, ""}} {
		state, err := shake(t, conf, &tls.Config{ServerName: "web.example.com", NextProtos: c.offered})
		if err != nil || state.NegotiatedProtocol != c.want {
			t.Errorf("offered %q: %q, %v; want %q", c.offered, state.NegotiatedProtocol, err, c.want)
		}
	}
}

func TestTerminationFollowsFiles(t *testing.T) {
	ca, dir := newEdgeCA(t), t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	conf, err := Termination{Certificates: []ServerCertificate{{CertFile: certFile, KeyFile: keyFile}}}.Config()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shake(t, conf, &tls.Config{}); err == nil {
		t.Fatal("a certificate that is not there was shown")
	}
	for i, name := range []string{"one.example.com", "two.example.com"} {
		_, cert, key := ca.issue(name, ecKey(t))
		for path, text := range map[string][]byte{certFile: cert, keyFile: key} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			at := time.Unix(int64(1000+i), 0)
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		state, err := shake(t, conf, &tls.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if got := state.PeerCertificates[0].DNSNames[0]; got != name {
			t.Errorf("shown %s, want %s", got, name)
		}
	}
}
