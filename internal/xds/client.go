package xds

import (
	"context"
	"log/slog"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tulle-mesh/tulle/internal/backoff"
	"github.com/tulle-mesh/tulle/internal/ir"
)

const (
	settle     = 10 * time.Millisecond // a burst of responses is over when nothing came for so long
	warming    = 5 * time.Second       // how long a reference may dangle before the rest is applied
	maxBackoff = 10 * time.Second
)

// ClientOptions of Run.
type ClientOptions struct {
	Conn grpc.ClientConnInterface
	Node ir.Node
	// Apply puts a whole snapshot in force; its error is sent back as NACK.
	// Called from one goroutine.
	Apply func(*ir.Snapshot) error
	Log   *slog.Logger
}

// Run keeps a delta ADS stream open until ctx ends, reconnecting with jittered
// exponential backoff. What was applied stays in force meanwhile.
func Run(ctx context.Context, opts ClientOptions) error {
	c := &client{opts: opts, have: newView()}
	pause := backoff.Backoff{Max: maxBackoff}
	for {
		err := c.stream(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.received {
			pause.Reset()
		}
		wait := pause.Next()
		opts.Log.Warn("xDS stream ended", "err", err, "again in", wait)
		if err := backoff.Wait(ctx, wait); err != nil {
			return err
		}
	}
}

type client struct {
	opts     ClientOptions
	have     *view
	applied  string
	received bool
}

type deltaStream = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// stream is one connection's life: responses are gathered until they make a
// whole snapshot, which is applied and then acknowledged.
func (c *client) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(c.opts.Conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	c.received = false
	if err := c.subscribe(stream); err != nil {
		return err
	}
	responses := make(chan *discovery.DeltaDiscoveryResponse)
	failed := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case responses <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	pending := map[string]string{} // type → nonce to acknowledge
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	timer.Stop()
	var since time.Time // of the first response that was not applied yet
	for {
		select {
		case err := <-failed:
			return err
		case m := <-responses:
			c.received = true
			if len(pending) == 0 {
				since = time.Now()
			}
			pending[m.TypeUrl] = m.Nonce
			c.have.take(m)
			timer.Reset(settle)
		case <-timer.C:
			s, err := c.have.snapshot(c.opts.Node)
			if err == nil && !c.whole(s) && time.Since(since) < warming {
				timer.Reset(settle)
				continue
			}
			if err == nil && s.Version != c.applied {
				if err = c.opts.Apply(s); err == nil {
					c.applied = s.Version
				}
			}
			if err := c.answer(stream, pending, err); err != nil {
				return err
			}
		}
	}
}

// subscribe asks for everything, saying what is here from an earlier stream.
func (c *client) subscribe(stream deltaStream) error {
	for i, t := range Types {
		m := &discovery.DeltaDiscoveryRequest{TypeUrl: t, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: c.have.versions(t)}
		if i == 0 {
			m.Node = EncodeNode(c.opts.Node)
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// whole reports whether the snapshot is one the control plane made (the hash
// says so), or at least has everything it refers to.
func (c *client) whole(s *ir.Snapshot) bool {
	if s.Version == c.have.system {
		return true
	}
	for _, l := range s.Listeners {
		for _, fc := range l.Chains {
			if fc.HTTP != nil && s.RouteTable(fc.HTTP.RouteTable) == nil {
				return false
			}
		}
	}
	for _, cl := range s.Clusters {
		if cl.Type == ir.EDS && s.EndpointSet(cl.Name) == nil {
			return false
		}
	}
	return len(c.have.seen) == len(Types)
}

// answer acknowledges what is pending, or refuses it with the reason.
func (c *client) answer(stream deltaStream, pending map[string]string, applyErr error) error {
	for _, t := range Types {
		nonce, ok := pending[t]
		if !ok {
			continue
		}
		delete(pending, t)
		m := &discovery.DeltaDiscoveryRequest{TypeUrl: t, ResponseNonce: nonce}
		if applyErr != nil {
			m.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: applyErr.Error()}
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	if applyErr != nil {
		c.opts.Log.Error("configuration refused", "err", applyErr)
	}
	return nil
}
