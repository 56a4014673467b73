package workloadapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("STRANGER"); path != "" {
		stranger(path)
		return
	}
	os.Exit(m.Run())
}

// place is a Workload API with an authority behind it.
type place struct {
	t         *testing.T
	authority *ca.Authority
	issuer    *issuer
	holder    *identity.Holder
	wanted    atomic.Int32
	addr      string
}

func open(t *testing.T, o Options) *place {
	t.Helper()
	a, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, authority: a, issuer: newIssuer(t), holder: identity.NewHolder("cluster.local")}
	path := filepath.Join(t.TempDir(), "spiffe")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
	p.addr = "unix://" + path
	o.Holder, o.Wanted = p.holder, func() { p.wanted.Add(1) }
	o.ControlPlane, o.Log = p.issuer.conn, slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(o).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// renew gives the holder a new certificate, as a rotator does.
func (p *place) renew() {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		p.t.Fatal(err)
	}
	chain, err := p.authority.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), worker, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, text := range chain[:len(chain)-1] {
		parsed, err := ca.ParseCertificates([]byte(text))
		if err != nil {
			p.t.Fatal(err)
		}
		cert.Certificate = append(cert.Certificate, parsed[0].Raw)
	}
	roots, err := ca.ParseCertificates(p.authority.Roots())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.holder.Set(cert, roots); err != nil {
		p.t.Fatal(err)
	}
}

// updates are what a client that watches has been sent.
type updates chan *workloadapi.X509Context

func (u updates) OnX509ContextUpdate(c *workloadapi.X509Context) { u <- c }

func (u updates) OnX509ContextWatchError(error) {} // the client tries again by itself

// go-spiffe fetches an SVID, follows renewals and a change of root, and makes
// mutual TLS of it.
func TestGoSPIFFE(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := open(t, Options{})
	p.renew()
	updates := make(updates, 100)
	go func() { _ = workloadapi.WatchX509Context(ctx, updates, workloadapi.WithAddr(p.addr)) }() // ends with ctx
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	var now *workloadapi.X509Context
	check := func(serial string, roots int) {
		t.Helper()
		for { // one change may arrive as two updates
			if now != nil {
				svid := now.DefaultSVID()
				bundle, err := now.Bundles.GetX509BundleForTrustDomain(td)
				if err != nil {
					t.Fatal(err)
				}
				if svid.Certificates[0].SerialNumber.Text(16) == serial && len(bundle.X509Authorities()) == roots {
					if svid.ID.String() != "spiffe://cluster.local/ns/shop/sa/worker" {
						t.Errorf("the SVID is of %s", svid.ID)
					}
					if _, _, err := x509svid.Verify(svid.Certificates, now.Bundles); err != nil {
						t.Error(err)
					}
					return
				}
			}
			select {
			case now = <-updates:
			case <-ctx.Done():
				t.Fatalf("no SVID with serial %s and %d roots came", serial, roots)
			}
		}
	}
	serial := func() string { return p.holder.Info().Serial }
	check(serial(), 1)
	if p.wanted.Load() == 0 {
		t.Error("nobody was told that an SVID is wanted")
	}
	p.renew()
	check(serial(), 1)

	next, err := ca.NewIssuer("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	rotate, enough := context.WithCancel(ctx)
	err = p.authority.Rotate(rotate, next, func(context.Context) error {
		roots, err := ca.ParseCertificates(p.authority.Roots())
		if err != nil {
			return err
		}
		if !p.holder.SetBundle(roots) {
			p.renew()
		}
		check(serial(), len(roots))
		if p.authority.Status().Phase == ca.Overlapping {
			enough() // the rest is a matter of time only
		}
		return nil
	})
	if err == nil {
		t.Error("the old certificates have not ended, and the change of root has")
	}

	server := tlsconfig.MTLSServerConfig(now.DefaultSVID(), now.Bundles, tlsconfig.AuthorizeMemberOf(td))
	client := tlsconfig.MTLSClientConfig(now.DefaultSVID(), now.Bundles, tlsconfig.AuthorizeID(spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/worker")))
	a, b := net.Pipe()
	failed := make(chan error, 1)
	go func() { failed <- tls.Server(a, server).Handshake() }()
	if err := tls.Client(b, client).Handshake(); err != nil {
		t.Error(err)
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// A client that comes before the certificate waits for it, and for no longer
// than it wants to.
func TestBeforeTheCertificate(t *testing.T) {
	p := open(t, Options{})
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := workloadapi.FetchX509SVID(short, workloadapi.WithAddr(p.addr)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := workloadapi.FetchX509Bundles(t.Context(), workloadapi.WithAddr(p.addr))
		got <- err
	}()
	p.renew()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	p := open(t, Options{})
	p.renew()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// Without the header that only a Workload API client sends.
	conn, err := grpc.NewClient("unix:"+strings.TrimPrefix(p.addr, "unix://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("without the security header: %v", err)
	}
}

// A process of another network namespace is closed unheard, although it is the
// same user's.
func TestOnlyTheSameNetwork(t *testing.T) {
	p := open(t, Options{SameNetwork: true})
	p.renew()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr(p.addr)); err != nil {
		t.Fatalf("a process of ours: %v", err)
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), "STRANGER="+strings.TrimPrefix(p.addr, "unix://"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Skipf("this user may not make a network namespace: %v", err)
	}
	if string(out) != "closed unheard" {
		t.Errorf("a stranger: %q %v", out, err)
	}
}

// stranger is the other process of TestOnlyTheSameNetwork.
func stranger(path string) {
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Print(err)
		return
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		fmt.Printf("was heard: %v", err)
		return
	}
	fmt.Print("closed unheard")
}
