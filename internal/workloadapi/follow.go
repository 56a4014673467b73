package workloadapi

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/backoff"
)

const maxBackoff = 10 * time.Second

// follower keeps the control plane's JWT bundles: one stream, however many the
// application has. It begins when somebody asks. What it has stays valid while
// the control plane is away.
type follower struct {
	wanted chan struct{} // closed when somebody asks
	once   sync.Once

	mu      sync.Mutex
	now     *jwtBundles   // nil: none has come yet
	refused error         // there will be none: the control plane knows no JWT-SVIDs
	changed chan struct{} // closed and made anew with every change of the above
}

func newFollower() *follower {
	return &follower{wanted: make(chan struct{}), changed: make(chan struct{})}
}

// after waits for bundles that are not b.
func (f *follower) after(ctx context.Context, b *jwtBundles) (*jwtBundles, error) {
	f.once.Do(func() { close(f.wanted) })
	for {
		f.mu.Lock()
		now, refused, changed := f.now, f.refused, f.changed
		f.mu.Unlock()
		switch {
		case now != nil && now != b:
			return now, nil
		case refused != nil:
			return nil, refused
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (f *follower) set(now *jwtBundles, refused error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now != nil {
		f.now = now
	}
	f.refused = refused
	close(f.changed)
	f.changed = make(chan struct{})
}

// run follows the control plane until ctx ends.
func (f *follower) run(ctx context.Context, from workload.SpiffeWorkloadAPIClient, log *slog.Logger) {
	select {
	case <-f.wanted:
	case <-ctx.Done():
		return
	}
	pause := backoff.Backoff{Max: maxBackoff}
	for {
		got, err := f.stream(ctx, from)
		if ctx.Err() != nil {
			return
		}
		if status.Code(err) == codes.Unimplemented { // another mesh's control plane
			f.set(nil, err)
			return
		}
		if got {
			pause.Reset()
		}
		wait := pause.Next()
		log.Warn("the control plane's JWT keys cannot be followed", "err", err, "again in", wait)
		if backoff.Wait(ctx, wait) != nil {
			return
		}
	}
}

// stream reads one stream to its end, and reports whether it brought anything.
func (f *follower) stream(ctx context.Context, from workload.SpiffeWorkloadAPIClient) (got bool, err error) {
	stream, err := from.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
	if err != nil {
		return false, err
	}
	for {
		wire, err := stream.Recv()
		if err != nil {
			return got, err
		}
		b, err := parseBundles(wire)
		if err != nil {
			return got, err
		}
		f.set(b, nil)
		got = true
	}
}
