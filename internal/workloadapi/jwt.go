package workloadapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// FetchJWTSVID returns a token of the workload's own identity, which the control
// plane has signed. The same one is returned for half of its life: applications
// ask once per request that they send.
func (s *Server) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	key := fmt.Sprintf("%q %q", r.SpiffeId, r.Audience)
	if kept := s.tokens.get(key); kept != nil {
		return kept, nil
	}
	resp, err := s.issuer.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: r.Audience, SpiffeId: r.SpiffeId})
	if err != nil {
		return nil, err // a status already
	}
	if len(resp.Svids) != 1 {
		return nil, status.Errorf(codes.Internal, "the control plane sent %d JWT-SVIDs", len(resp.Svids))
	}
	svid, err := jwtsvid.ParseInsecure(resp.Svids[0].Svid, r.Audience)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the control plane sent: %v", err)
	}
	now := time.Now()
	s.tokens.put(key, keptToken{resp, now.Add(svid.Expiry.Sub(now) / 2)})
	return resp, nil
}

// maxTokens bounds the tokens that are kept; when it is reached all are
// forgotten and fetched again as they are asked for.
const maxTokens = 256

// tokenCache has the newest token for each request. The zero value is ready.
type tokenCache struct {
	mu     sync.Mutex
	tokens map[string]keptToken
}

type keptToken struct {
	answer *workload.JWTSVIDResponse // read-only
	until  time.Time
}

func (c *tokenCache) get(key string) *workload.JWTSVIDResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.tokens[key]; ok && time.Now().Before(t.until) {
		return t.answer
	}
	return nil
}

func (c *tokenCache) put(key string, t keptToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens == nil || len(c.tokens) >= maxTokens {
		c.tokens = map[string]keptToken{}
	}
	c.tokens[key] = t
}

// FetchJWTBundles sends what JWT-SVIDs are verified with, now and whenever it
// changes.
func (s *Server) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	var sent *jwtBundles
	for {
		b, err := s.bundles.after(stream.Context(), sent)
		if err != nil {
			return err
		}
		if err := stream.Send(b.wire); err != nil {
			return err
		}
		sent = b
	}
}

// ValidateJWTSVID verifies a token for the application that received it, as the
// JWT-SVID standard asks.
func (s *Server) ValidateJWTSVID(ctx context.Context, r *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if r.Audience == "" || r.Svid == "" {
		return nil, status.Error(codes.InvalidArgument, "audience and svid must be given")
	}
	b, err := s.bundles.after(ctx, nil)
	if err != nil {
		return nil, err
	}
	svid, err := jwtsvid.ParseAndValidate(r.Svid, b.set, []string{r.Audience})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "claims: %v", err)
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}

// jwtBundles is the control plane's newest answer; immutable.
type jwtBundles struct {
	wire *workload.JWTBundlesResponse
	set  *jwtbundle.Set
}

func parseBundles(wire *workload.JWTBundlesResponse) (*jwtBundles, error) {
	b := &jwtBundles{wire, jwtbundle.NewSet()}
	for name, text := range wire.Bundles {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return nil, err
		}
		parsed, err := jwtbundle.Parse(td, text)
		if err != nil {
			return nil, err
		}
		b.set.Add(parsed)
	}
	return b, nil
}
