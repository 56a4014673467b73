package ca

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
	"log/slog"
	mrand "math/rand/v2"
	"time"

	"google.golang.org/grpc"
	pb "istio.io/api/security/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/backoff"
	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	maxBackoff  = 30 * time.Second
	callTimeout = 10 * time.Second
	// renewSpread: so long a mesh takes to renew because its root changes.
	renewSpread = 5 * time.Second
)

// RotatorOptions: Conn carries the workload's token with every call.
type RotatorOptions struct {
	Conn   grpc.ClientConnInterface
	Holder *identity.Holder
	TTL    time.Duration // asked for; 0: the CA's default
	Log    *slog.Logger
}

// Rotator keeps a Holder's certificate fresh.
type Rotator struct {
	opts   RotatorOptions
	client pb.IstioCertificateServiceClient
	early  chan struct{} // a renewal is due before its time
}

// NewRotator returns a rotator; nothing happens before Run.
func NewRotator(opts RotatorOptions) *Rotator {
	return &Rotator{opts: opts, client: pb.NewIstioCertificateServiceClient(opts.Conn), early: make(chan struct{}, 1)}
}

// Renew asks for a new certificate soon, within seconds that differ from
// workload to workload. It does not wait.
func (r *Rotator) Renew() {
	select {
	case r.early <- struct{}{}:
	default: // it is asked for already
	}
}

// Run fetches a certificate at once and renews it around half of its life,
// jittered so that a mesh does not renew in step. It retries with exponential
// backoff for as long as it takes and returns when ctx ends.
func (r *Rotator) Run(ctx context.Context) error {
	pause := backoff.Backoff{Max: maxBackoff}
	for {
		var wait time.Duration
		notAfter, err := r.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			wait = pause.Next()
			r.opts.Log.Warn("no certificate yet", "err", err, "again in", wait)
		default:
			pause.Reset()
			life := time.Until(notAfter)
			wait = life*2/5 + mrand.N(life/5+1) // 40 % to 60 %
		}
		if err := r.wait(ctx, wait); err != nil {
			return err
		}
	}
}

// wait returns when a renewal is due: at its time, or early.
func (r *Rotator) wait(ctx context.Context, due time.Duration) error {
	timer := time.NewTimer(due)
	defer timer.Stop()
	start := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-r.early:
			timer.Reset(max(0, min(due-time.Since(start), mrand.N(renewSpread))))
		}
	}
}

// renew makes a fresh key, which never leaves this process, and has it signed.
func (r *Rotator) renew(ctx context.Context) (time.Time, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return time.Time{}, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.client.CreateCertificate(ctx, &pb.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		ValidityDuration: int64(r.opts.TTL / time.Second),
	}, grpc.WaitForReady(true))
	if err != nil {
		return time.Time{}, fmt.Errorf("CreateCertificate: %w", err)
	}
	return r.install(key, resp.CertChain)
}

func (r *Rotator) install(key *ecdsa.PrivateKey, chain []string) (time.Time, error) {
	if len(chain) < 2 {
		return time.Time{}, errors.New("CreateCertificate: the answer has no root")
	}
	roots, err := ParseCertificates([]byte(chain[len(chain)-1]))
	if err != nil {
		return time.Time{}, fmt.Errorf("CreateCertificate: root: %w", err)
	}
	cert := tls.Certificate{PrivateKey: key}
	var notAfter time.Time
	for i, text := range chain[:len(chain)-1] {
		parsed, err := ParseCertificates([]byte(text))
		if err != nil {
			return time.Time{}, fmt.Errorf("CreateCertificate: chain: %w", err)
		}
		if i == 0 {
			notAfter = parsed[0].NotAfter
			if !key.PublicKey.Equal(parsed[0].PublicKey) {
				return time.Time{}, errors.New("CreateCertificate: the certificate is for another key")
			}
		}
		for _, c := range parsed {
			cert.Certificate = append(cert.Certificate, c.Raw)
		}
	}
	if err := r.opts.Holder.Set(cert, roots); err != nil {
		return time.Time{}, err
	}
	r.opts.Log.Info("certificate", "identity", r.opts.Holder, "until", notAfter)
	return notAfter, nil
}
