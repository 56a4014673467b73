package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority issues certificates and revocation lists.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(serial int64, names ...string) (cert, key []byte) {
	a.t.Helper()
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, _ := x509.MarshalPKCS8PrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func (a *authority) revoke(serials ...int64) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// handshake connects a client to a server that has the certificate, and returns
// what the server saw of the client.
func handshake(t *testing.T, server *tls.Config, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(a, server)
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	err := tls.Client(b, client).Handshake()
	if err != nil {
		b.Close()
	}
	if serr := <-done; err == nil {
		err = serr
	}
	return s.ConnectionState(), err
}

func serving(t *testing.T, cert, key []byte) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true}
}

func TestOrigination(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.issue(2, "db.example")
	accept := func(want string) func(string) bool { return func(got string) bool { return got == want } }
	for _, tt := range []struct {
		name string
		o    Origination
		want string // part of the error; "" succeeds
	}{
		{"the name that was asked for", Origination{CA: ca.pem, SNI: "db.example"}, ""},
		{"another name", Origination{CA: ca.pem, SNI: "web.example"}, "not web.example"},
		{"subjectAltNames instead", Origination{CA: ca.pem, SNI: "web.example", Accept: accept("db.example")}, ""},
		{"none of subjectAltNames", Origination{CA: ca.pem, SNI: "db.example", Accept: accept("web.example")}, "is one of subjectAltNames"},
		{"another authority", Origination{CA: other.pem, SNI: "db.example"}, "unknown authority"},
		{"the machine's bundle", Origination{CAFile: SystemCA, SNI: "db.example"}, "unknown authority"},
		{"without verification", Origination{CA: other.pem, SNI: "web.example", SkipVerify: true}, ""},
		{"a missing bundle", Origination{CAFile: "/nonexistent/ca.pem", SNI: "db.example"}, "no such file"},
		{"revoked", Origination{CA: ca.pem, SNI: "db.example", CRL: ca.revoke(2)}, "was revoked"},
		{"somebody else revoked", Origination{CA: ca.pem, SNI: "db.example", CRL: ca.revoke(3)}, ""},
		{"a list of somebody else", Origination{CA: ca.pem, SNI: "db.example", CRL: other.revoke(2)}, "no revocation list"},
		{"a missing list", Origination{CA: ca.pem, SNI: "db.example", CRLFile: "/nonexistent/crl.pem"}, "no such file"},
	} {
		state, err := handshake(t, serving(t, cert, key), tt.o.Config())
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		case err == nil && state.ServerName != tt.o.SNI:
			t.Errorf("%s: asked for %q", tt.name, state.ServerName)
		}
	}
}

// Certificates in files are read again when they change.
func TestOriginationFollowsFiles(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(2, "db.example")
	server := serving(t, cert, key)
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	server.ClientCAs.AddCert(ca.cert)
	dir := t.TempDir()
	file := func(name string, text []byte, age time.Duration) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write := func(serial int64, age time.Duration) {
		cert, key := ca.issue(serial, "client.example")
		file("cert.pem", cert, age)
		file("key.pem", key, age)
	}
	write(10, time.Hour)
	client := Origination{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), CAFile: file("ca.pem", ca.pem, time.Hour), SNI: "db.example"}.Config()
	for i, serial := range []int64{10, 11} {
		if i == 1 {
			write(serial, time.Minute)
		}
		state, err := handshake(t, server, client)
		if err != nil {
			t.Fatal(err)
		}
		if got := state.PeerCertificates[0].SerialNumber.Int64(); got != serial {
			t.Errorf("the server saw certificate %d, want %d", got, serial)
		}
	}
}
