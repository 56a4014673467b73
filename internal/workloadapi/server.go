// Package workloadapi serves the SPIFFE Workload API to one workload's
// application: an X.509-SVID of its own and the trust bundle, and every change
// of either; JWT-SVIDs for audiences of its choice, and the keys to verify those
// of others. The identity is the one that its sidecar proved. The X.509 key is
// made for the application and is no other's; tokens are signed by the control
// plane (Issuer), whose key the sidecar never has.
package workloadapi

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	// securityHeader must come with every call: nothing that can be tricked into
	// fetching a URL sends it (SPIFFE Workload Endpoint, section 5).
	securityHeader = "workload.spiffe.io"
	// What one application may hold open.
	maxConnections = 64
	maxStreams     = 64
)

// Options of a server.
type Options struct {
	// Holder has the application's SVID. Nothing is answered before it is there.
	Holder *identity.Holder
	// Wanted is called with every request that needs the SVID: whoever fills
	// Holder need not begin before. It must not block.
	Wanted func()
	// ControlPlane signs JWT-SVIDs (RegisterIssuer); its calls carry the workload's
	// token.
	ControlPlane grpc.ClientConnInterface
	// SameNetwork lets in only processes of this process's own network namespace.
	// For a machine where all workloads share files and a user, so that a socket's
	// permissions tell nobody apart.
	SameNetwork bool
	Log         *slog.Logger
}

// Server is the Workload API of one workload.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	opts    Options
	grpc    *grpc.Server
	issuer  workload.SpiffeWorkloadAPIClient
	tokens  tokenCache
	bundles *follower
}

// New returns a server; Serve opens its socket.
func New(opts Options) *Server {
	s := &Server{opts: opts, issuer: workload.NewSpiffeWorkloadAPIClient(opts.ControlPlane), bundles: newFollower()}
	s.grpc = grpc.NewServer(grpc.MaxConcurrentStreams(maxStreams), grpc.MaxRecvMsgSize(64<<10),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			if err := meant(ctx); err != nil {
				return nil, err
			}
			return h(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			if err := meant(ss.Context()); err != nil {
				return err
			}
			return h(srv, ss)
		}))
	workload.RegisterSpiffeWorkloadAPIServer(s.grpc, s)
	return s
}

// meant checks the header that only a Workload API client sends.
func meant(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(securityHeader); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing: want workload.spiffe.io: true")
	}
	return nil
}

// Listen makes the socket, in place of one that a process that was killed left
// behind. Only its owner may connect.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("workload API: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("workload API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("workload API: %w", err)
	}
	return l, nil
}

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.opts.SameNetwork {
		var err error
		if l, err = sameNetwork(l); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.bundles.run(ctx, s.issuer, s.opts.Log) })
	return s.grpc.Serve(netutil.LimitListener(l, maxConnections))
}

// FetchX509SVID sends the SVID with its key and the bundle, now and whenever
// one of them changes.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return s.follow(stream.Context(), func(c identity.Current) error {
		key, err := x509.MarshalPKCS8PrivateKey(c.Cert.PrivateKey)
		if err != nil {
			return status.Error(codes.Internal, "the key cannot be written")
		}
		var chain []byte
		for _, der := range c.Cert.Certificate {
			chain = append(chain, der...)
		}
		return stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId: c.ID.String(), X509Svid: chain, X509SvidKey: key, Bundle: join(c.Roots)}}})
	})
}

// FetchX509Bundles sends the trust bundle, now and whenever it changes.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return s.follow(stream.Context(), func(c identity.Current) error {
		return stream.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://" + c.ID.TrustDomain: join(c.Roots)}})
	})
}

// follow calls send with what is held, and again after every change. A client
// that does not read misses what came between.
func (s *Server) follow(ctx context.Context, send func(identity.Current) error) error {
	s.opts.Wanted()
	select {
	case <-s.opts.Holder.Ready():
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	for {
		changed := s.opts.Holder.Changed() // before reading, so that no change is missed
		c, err := s.opts.Holder.Current()
		if err != nil {
			return status.Error(codes.PermissionDenied, err.Error())
		}
		if err := send(c); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func join(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, c.Raw...)
	}
	return out
}
