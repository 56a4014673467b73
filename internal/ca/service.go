package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	pb "istio.io/api/security/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// ErrUnavailable is for Authenticators that cannot tell at the moment: the
// caller may try again.
var ErrUnavailable = errors.New("identities cannot be proved at the moment")

// Authenticator tells whose token a token is.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (identity.ID, error)
}

// Tokens is the Authenticator of one machine: opaque random tokens, each
// handed to one workload's sidecar through a channel of its own. Safe for
// concurrent use.
type Tokens struct {
	mu  sync.Mutex
	ids map[[32]byte]identity.ID
}

// NewTokens returns an empty registry.
func NewTokens() *Tokens { return &Tokens{ids: map[[32]byte]identity.ID{}} }

// Issue makes a token for the identity. Only its hash is kept.
func (t *Tokens) Issue(id identity.ID) string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	token := base64.RawURLEncoding.EncodeToString(b[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids[sha256.Sum256([]byte(token))] = id
	return token
}

// Revoke forgets a token.
func (t *Tokens) Revoke(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ids, sha256.Sum256([]byte(token)))
}

// Authenticate implements Authenticator. Tokens are found by hash, so that the
// time of the look-up says nothing about them.
func (t *Tokens) Authenticate(_ context.Context, token string) (identity.ID, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, ok := t.ids[sha256.Sum256([]byte(token))]
	if !ok {
		return identity.ID{}, errors.New("the token is not known")
	}
	return id, nil
}

// Caller authenticates the bearer token of a gRPC call.
func Caller(ctx context.Context, auth Authenticator) (identity.ID, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return identity.ID{}, status.Error(codes.Unauthenticated, "want one authorization header with a bearer token")
	}
	token, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok || len(token) > 16<<10 {
		return identity.ID{}, status.Error(codes.Unauthenticated, "authorization is not a bearer token")
	}
	id, err := auth.Authenticate(ctx, token)
	switch {
	case errors.Is(err, ErrUnavailable):
		return identity.ID{}, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return identity.ID{}, status.Error(codes.Unauthenticated, err.Error())
	}
	return id, nil
}

// Service is Istio's IstioCertificateService.
type Service struct {
	pb.UnimplementedIstioCertificateServiceServer
	authority *Authority
	auth      Authenticator
}

// Register serves an authority's CreateCertificate on s.
func Register(s grpc.ServiceRegistrar, authority *Authority, auth Authenticator) {
	pb.RegisterIstioCertificateServiceServer(s, &Service{authority: authority, auth: auth})
}

// CreateCertificate signs for the caller's proven identity.
func (s *Service) CreateCertificate(ctx context.Context, r *pb.IstioCertificateRequest) (*pb.IstioCertificateResponse, error) {
	id, err := Caller(ctx, s.auth)
	if err != nil {
		return nil, err
	}
	if r.ValidityDuration < 0 {
		return nil, status.Error(codes.InvalidArgument, "validity_duration is negative")
	}
	ttl := MaxTTL
	if r.ValidityDuration < int64(MaxTTL/time.Second) {
		ttl = time.Duration(r.ValidityDuration) * time.Second
	}
	chain, err := s.authority.Sign([]byte(r.Csr), id, ttl)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &pb.IstioCertificateResponse{CertChain: chain}, nil
}
