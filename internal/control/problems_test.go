package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/xds"
)

const nowhere = `apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: shop}
spec:
  hosts: [api]
  http: [{route: [{destination: {host: api, subset: v9}}]}]
`

// What only compiling for a proxy shows, a subset that nobody defines, is told
// when the proxy connects.
func TestProblemsOfConnectedProxies(t *testing.T) {
	set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: []byte(nowhere)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	told := make(chan []resource.Problem, 10)
	log := slog.New(slog.DiscardHandler)
	c := New(Options{Sources: []source.Source{once{source.Update{Set: set}}}, Changed: func(s *State) { told <- s.Problems() }, Log: log})
	ctx, stop := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Run(ctx) })
	if first := <-told; len(first) > 0 {
		t.Errorf("problems before any proxy: %v", first)
	}

	l, server := bufconn.Listen(1<<20), grpc.NewServer()
	c.Server().Register(server)
	g.Go(func() error { return server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///xds", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	node := ir.Node{Type: ir.Sidecar, Name: "web-0", Namespace: "shop", IPs: []string{"10.0.0.1"}}
	g.Go(func() error {
		return xds.Run(ctx, xds.ClientOptions{Conn: conn, Node: node, Apply: func(*ir.Snapshot) error { return nil }, Log: log})
	})
	now := <-told
	if len(now) != 1 || !strings.HasPrefix(now[0].String(), "in.yaml:11: VirtualService shop/api: spec.http[0].route[0].destination.subset: no DestinationRule") {
		t.Errorf("problems with a proxy: %v; want the subset at its line", now)
	}
	stop()
	server.Stop()
	conn.Close()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
