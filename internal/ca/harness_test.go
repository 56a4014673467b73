package ca

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	pb "istio.io/api/security/v1alpha1"
)

var discard = slog.New(slog.DiscardHandler)

func inBubble(t *testing.T, f func(*testing.T)) { t.Helper(); synctest.Test(t, f) }

// inProcess is a connection to the service without a network, which virtual
// time could not pass on.
type inProcess struct {
	service *Service
	token   string
	mu      sync.Mutex
	until   time.Time // fails until then
}

func (c *inProcess) fail(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = until
}

// Invoke implements grpc.ClientConnInterface.
func (c *inProcess) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	c.mu.Lock()
	away := time.Now().Before(c.until)
	c.mu.Unlock()
	if away {
		return status.Error(codes.Unavailable, "away")
	}
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+c.token))
	r, err := c.service.CreateCertificate(ctx, args.(*pb.IstioCertificateRequest))
	if err != nil {
		return err
	}
	proto.Merge(reply.(proto.Message), r)
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (c *inProcess) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams")
}
