package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"testing/synctest"
	"time"
)

// svidCA signs SVIDs for these tests.
type svidCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSVIDCA(t *testing.T) *svidCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &svidCA{cert, key}
}

func (a *svidCA) issue(t *testing.T, name string, ttl time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(ttl),
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/default/sa/" + name}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func holder(t *testing.T, cert tls.Certificate, roots ...*svidCA) *Holder {
	t.Helper()
	h := NewHolder("cluster.local")
	hold(t, h, cert, roots...)
	return h
}

func hold(t *testing.T, h *Holder, cert tls.Certificate, roots ...*svidCA) {
	t.Helper()
	var list []*x509.Certificate
	for _, r := range roots {
		list = append(list, r.cert)
	}
	if err := h.Set(cert, list); err != nil {
		t.Fatal(err)
	}
}

// meet does a handshake and lets one byte through, so that tickets arrive. It
// returns what the server saw, and either side's error.
func meet(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type side struct {
		cs  tls.ConnectionState
		err error
	}
	served := make(chan side, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			served <- side{err: err}
			return
		}
		defer raw.Close()
		s := tls.Server(raw, server)
		if _, err = s.Write([]byte("x")); err == nil {
			io.Copy(io.Discard, s) // until the client has seen it
		}
		served <- side{s.ConnectionState(), err}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, client)
	_, err = io.ReadFull(c, make([]byte, 1))
	raw.Close()
	s := <-served
	return s.cs, s.err, err
}

func TestSessionsResume(t *testing.T) {
	ca := newSVIDCA(t)
	server, client := holder(t, ca.issue(t, "server", time.Hour), ca), holder(t, ca.issue(t, "client", time.Hour), ca)
	options := ServerOptions{RequireClientCert: true}
	dial := client.Client(ClientOptions{SNI: "server"})
	for i, want := range []bool{false, true, true} {
		// Every time a fresh configuration, as each Apply makes: the tickets' keys stay.
		cs, err, _ := meet(t, server.Server(options), dial)
		if err != nil {
			t.Fatal(err)
		}
		if cs.DidResume != want {
			t.Errorf("connection %d: resumed is %v", i, cs.DidResume)
		}
		if id := PeerID(cs); id != "spiffe://cluster.local/ns/default/sa/client" {
			t.Errorf("connection %d: the peer is %q", i, id)
		}
	}
}

// Whatever would refuse a full handshake refuses a resumed one.
func TestResumptionIsVerifiedAgain(t *testing.T) {
	var ve *VerifyError
	t.Run("withdrawn root", func(t *testing.T) {
		old, new := newSVIDCA(t), newSVIDCA(t)
		server, client := holder(t, old.issue(t, "server", time.Hour), old, new), holder(t, old.issue(t, "client", time.Hour), old, new)
		dial := client.Client(ClientOptions{SNI: "server"})
		if _, err, _ := meet(t, server.Server(ServerOptions{RequireClientCert: true}), dial); err != nil {
			t.Fatal(err)
		}
		hold(t, server, new.issue(t, "server", time.Hour), new)
		_, err, _ := meet(t, server.Server(ServerOptions{RequireClientCert: true}), dial)
		if !errors.As(err, &ve) || ve.Reason != Withdrawn {
			t.Errorf("%v, want %q", err, Withdrawn)
		}
	})
	t.Run("withdrawn root, seen by the client", func(t *testing.T) {
		old, new := newSVIDCA(t), newSVIDCA(t)
		server, client := holder(t, old.issue(t, "server", time.Hour), old, new), holder(t, old.issue(t, "client", time.Hour), old, new)
		dial := client.Client(ClientOptions{SNI: "server"})
		if _, err, _ := meet(t, server.Server(ServerOptions{RequireClientCert: true}), dial); err != nil {
			t.Fatal(err)
		}
		hold(t, client, new.issue(t, "client", time.Hour), new)
		_, _, err := meet(t, server.Server(ServerOptions{RequireClientCert: true}), dial)
		if !errors.As(err, &ve) || ve.Reason != Withdrawn {
			t.Errorf("%v, want %q", err, Withdrawn)
		}
	})
	t.Run("new root on both sides", func(t *testing.T) {
		old, new := newSVIDCA(t), newSVIDCA(t)
		server, client := holder(t, old.issue(t, "server", time.Hour), old, new), holder(t, old.issue(t, "client", time.Hour), old, new)
		dial := client.Client(ClientOptions{SNI: "server"})
		if _, err, _ := meet(t, server.Server(ServerOptions{RequireClientCert: true}), dial); err != nil {
			t.Fatal(err)
		}
		hold(t, server, new.issue(t, "server", time.Hour), new)
		hold(t, client, new.issue(t, "client", time.Hour), new)
		cs, err, _ := meet(t, server.Server(ServerOptions{RequireClientCert: true}), dial)
		if err != nil || cs.DidResume {
			t.Errorf("resumed is %v, %v: want a full handshake with the new certificates", cs.DidResume, err)
		}
	})
	t.Run("other listener", func(t *testing.T) {
		ca := newSVIDCA(t)
		server, client := holder(t, ca.issue(t, "server", time.Hour), ca), holder(t, ca.issue(t, "client", time.Hour), ca)
		dial := client.Client(ClientOptions{SNI: "server"})
		if _, err, _ := meet(t, server.Server(ServerOptions{RequireClientCert: true}), dial); err != nil {
			t.Fatal(err)
		}
		nobody := func(string) bool { return false }
		_, err, _ := meet(t, server.Server(ServerOptions{RequireClientCert: true, Accept: nobody}), dial)
		if !errors.As(err, &ve) || ve.Reason != WrongSAN {
			t.Errorf("%v, want %q", err, WrongSAN)
		}
	})
	t.Run("other process", func(t *testing.T) {
		ca := newSVIDCA(t)
		first, second := holder(t, ca.issue(t, "server", time.Hour), ca), holder(t, ca.issue(t, "server", time.Hour), ca)
		dial := holder(t, ca.issue(t, "client", time.Hour), ca).Client(ClientOptions{SNI: "server"})
		if _, err, _ := meet(t, first.Server(ServerOptions{RequireClientCert: true}), dial); err != nil {
			t.Fatal(err)
		}
		cs, err, _ := meet(t, second.Server(ServerOptions{RequireClientCert: true}), dial)
		if err != nil || cs.DidResume {
			t.Errorf("resumed is %v, %v: want a full handshake", cs.DidResume, err)
		}
	})
}

// A chain that was good once is not good after its time, for a purpose it was
// not asked about, or under another bundle.
func TestRememberedChains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := newSVIDCA(t), newSVIDCA(t)
		cert := ca.issue(t, "client", time.Hour)
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		h := holder(t, cert, ca)
		verify := func(usage x509.ExtKeyUsage) error {
			return h.current.Load().verifyChain([]*x509.Certificate{leaf}, usage)
		}
		for range 2 {
			if err := verify(x509.ExtKeyUsageClientAuth); err != nil {
				t.Fatal(err)
			}
		}
		if err := verify(x509.ExtKeyUsageCodeSigning); err == nil {
			t.Error("good for client authentication, and so for code signing")
		}
		hold(t, h, cert, other)
		if err := verify(x509.ExtKeyUsageClientAuth); err == nil {
			t.Error("good under a bundle without its root")
		}
		hold(t, h, cert, ca)
		if err := verify(x509.ExtKeyUsageClientAuth); err != nil {
			t.Fatal(err)
		}
		<-time.NewTimer(2 * time.Hour).C // the bubble's clock
		if err := verify(x509.ExtKeyUsageClientAuth); err == nil {
			t.Error("good after it has expired")
		}
	})
}

func TestRememberedChainsAreBounded(t *testing.T) {
	var v verified
	for i := range 3 * maxVerified {
		v.put(verifiedKey{chain: [32]byte{byte(i), byte(i >> 8)}}, validity{})
	}
	if n := len(v.chains); n > maxVerified {
		t.Errorf("%d chains are remembered", n)
	}
}
