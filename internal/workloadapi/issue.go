package workloadapi

import (
	"context"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Bounds of what is signed: a token travels in a header.
const (
	maxAudiences    = 16
	maxAudienceText = 4 << 10 // bytes of all together
)

// Keys sign JWT-SVIDs and say what they are verified with (ca.JWTKeys).
type Keys interface {
	Sign(id identity.ID, audience []string) (string, error)
	Bundle() (set []byte, until time.Time, err error)
}

// Issuer is the control plane's part of JWT-SVIDs: the methods of the Workload
// API that need the signing key, for sidecars instead of applications. A caller
// is who its token proves.
type Issuer struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	keys        Keys
	trustDomain string
	caller      func(context.Context) (identity.ID, error)
}

// RegisterIssuer serves the keys of a trust domain on s. caller fails with a
// gRPC status where a call does not prove who it is from.
func RegisterIssuer(s grpc.ServiceRegistrar, trustDomain string, keys Keys, caller func(context.Context) (identity.ID, error)) {
	workload.RegisterSpiffeWorkloadAPIServer(s, &Issuer{keys: keys, trustDomain: trustDomain, caller: caller})
}

// FetchJWTSVID signs a token for the caller's proven identity.
func (i *Issuer) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	id, err := i.caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkAudience(r.Audience); err != nil {
		return nil, err
	}
	if r.SpiffeId != "" && r.SpiffeId != id.String() {
		return nil, status.Errorf(codes.PermissionDenied, "this workload is %s, not %s", id, r.SpiffeId)
	}
	token, err := i.keys.Sign(id, r.Audience)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: id.String(), Svid: token}}}, nil
}

func checkAudience(audience []string) error {
	total := 0
	for _, a := range audience {
		if a == "" {
			return status.Error(codes.InvalidArgument, "an audience is empty")
		}
		total += len(a)
	}
	switch {
	case len(audience) == 0:
		return status.Error(codes.InvalidArgument, "audience missing: say whom the JWT-SVID is for")
	case len(audience) > maxAudiences, total > maxAudienceText:
		return status.Errorf(codes.InvalidArgument, "more than %d audiences or %d bytes of them", maxAudiences, maxAudienceText)
	}
	return nil
}

// FetchJWTBundles sends the keys now and whenever they change.
func (i *Issuer) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	if _, err := i.caller(stream.Context()); err != nil {
		return err
	}
	for {
		set, until, err := i.keys.Bundle()
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		if err := stream.Send(&workload.JWTBundlesResponse{Bundles: map[string][]byte{"spiffe://" + i.trustDomain: set}}); err != nil {
			return err
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-timer.C:
		case <-stream.Context().Done():
			timer.Stop()
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}
