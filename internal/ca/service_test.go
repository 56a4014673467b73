package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	pb "istio.io/api/security/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// serve opens an authority's service and returns a client of it.
func serve(t testing.TB, a *Authority, auth Authenticator) pb.IstioCertificateServiceClient {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	Register(s, a, auth)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///ca", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return pb.NewIstioCertificateServiceClient(conn)
}

func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// away is an Authenticator whose source does not answer.
type away struct{}

func (away) Authenticate(context.Context, string) (identity.ID, error) {
	return identity.ID{}, fmt.Errorf("%w: connection refused", ErrUnavailable)
}

// Certificates are for the identity that the token proves and no other, and
// nobody without one gets any.
func TestCreateCertificate(t *testing.T) {
	a, tokens := authority(t), NewTokens()
	client := serve(t, a, tokens)
	good, revoked := tokens.Issue(worker), tokens.Issue(worker)
	tokens.Revoke(revoked)
	admin, _ := url.Parse("spiffe://cluster.local/ns/kube-system/sa/admin")
	request := string(csr(t, x509.CertificateRequest{URIs: []*url.URL{admin}}, key(t)))
	tests := []struct {
		name  string
		ctx   context.Context
		csr   string
		ttl   time.Duration
		code  codes.Code
		lives time.Duration
	}{
		{"good", bearer(t.Context(), good), request, 0, codes.OK, DefaultTTL},
		{"an hour", bearer(t.Context(), good), request, time.Hour, codes.OK, time.Hour},
		{"a year", bearer(t.Context(), good), request, 365 * 24 * time.Hour, codes.OK, MaxTTL},
		{"less than nothing", bearer(t.Context(), good), request, -time.Hour, codes.InvalidArgument, 0},
		{"no request", bearer(t.Context(), good), "", 0, codes.InvalidArgument, 0},
		{"no token", t.Context(), request, 0, codes.Unauthenticated, 0},
		{"another token", bearer(t.Context(), "x"+good[1:]+"y"), request, 0, codes.Unauthenticated, 0},
		{"a revoked token", bearer(t.Context(), revoked), request, 0, codes.Unauthenticated, 0},
		{"two tokens", bearer(bearer(t.Context(), good), good), request, 0, codes.Unauthenticated, 0},
		{"no bearer", metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic "+good), request, 0, codes.Unauthenticated, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := client.CreateCertificate(tt.ctx, &pb.IstioCertificateRequest{Csr: tt.csr, ValidityDuration: int64(tt.ttl / time.Second)})
			if status.Code(err) != tt.code {
				t.Fatalf("%v, want %s", err, tt.code)
			}
			if err != nil {
				return
			}
			leaf, err := ParseCertificates([]byte(r.CertChain[0]))
			if err != nil {
				t.Fatal(err)
			}
			if uris := leaf[0].URIs; len(uris) != 1 || uris[0].String() != worker.String() {
				t.Errorf("the certificate is for %v, the token proves %s", uris, worker)
			}
			if lives := time.Until(leaf[0].NotAfter); lives > tt.lives || lives < tt.lives-time.Minute {
				t.Errorf("lives %s, want %s", lives, tt.lives)
			}
			if last := r.CertChain[len(r.CertChain)-1]; last != string(a.Roots()) {
				t.Error("the last element is not the root")
			}
		})
	}
	_, err := serve(t, a, away{}).CreateCertificate(bearer(t.Context(), good), &pb.IstioCertificateRequest{Csr: request})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("nobody to ask: %v, want one that clients try again", err)
	}
}

// A rotator renews around half of the life, jittered, goes on through
// failures, and comes early when it is asked to.
func TestRotatorRenews(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, tokens := authority(t), NewTokens()
		conn := &inProcess{service: &Service{authority: a, auth: tokens}, token: tokens.Issue(worker)}
		h := identity.NewHolder("cluster.local")
		r := NewRotator(RotatorOptions{Conn: conn, Holder: h, TTL: 10 * time.Hour, Log: discard})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		<-h.Ready()
		waits := map[time.Duration]bool{}
		next := func() time.Duration {
			changed, start := h.Changed(), time.Now()
			<-changed
			return time.Since(start)
		}
		for range 10 {
			d := next()
			if waits[d] = true; d < 4*time.Hour || d > 6*time.Hour {
				t.Errorf("renewed after %s of 10h", d)
			}
		}
		if len(waits) < 5 {
			t.Errorf("no jitter: %v", waits)
		}
		r.Renew()
		if d := next(); d > renewSpread {
			t.Errorf("asked for a renewal, it came after %s", d)
		}
		conn.fail(time.Now().Add(8 * time.Hour))
		if d := next(); d < 8*time.Hour || d > 8*time.Hour+maxBackoff {
			t.Errorf("with the authority away for 8h: renewed after %s", d)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// BenchmarkSign is the authority's own part of a certificate: checking the
// request and signing (bench/certificates has the service's whole).
func BenchmarkSign(b *testing.B) {
	a, err := New("cluster.local")
	if err != nil {
		b.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		b.Fatal(err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Sign(request, worker, 0); err != nil {
			b.Fatal(err)
		}
	}
}
