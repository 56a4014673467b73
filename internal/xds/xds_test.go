package xds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// snapshots compiles every example of the compile room for every workload and
// a gateway: whatever compile can say must survive the wire.
func snapshots(t testing.TB) map[string]*ir.Snapshot {
	t.Helper()
	inputs, err := filepath.Glob("../compile/testdata/*/in.yaml")
	if err != nil || len(inputs) < 5 {
		t.Fatalf("%d examples, %v", len(inputs), err)
	}
	out := map[string]*ir.Snapshot{}
	for _, file := range inputs {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set, _ := resource.Parse([]resource.File{{Name: file, Data: text}}) // some are wrong on purpose
		next := netip.MustParseAddr("10.244.0.2")
		for _, d := range set.Deployments {
			tpl := d.Spec.Spec.Template
			w := &resource.Workload{Name: d.Name + "-0", Namespace: d.Namespace, Owner: d.Name, OwnerKind: d.Kind, Labels: tpl.Labels, ServiceAccount: tpl.Spec.ServiceAccountName, Address: next, Ready: true, Sidecar: true}
			for _, c := range tpl.Spec.Containers {
				for _, p := range c.Ports {
					w.Ports = append(w.Ports, resource.WorkloadPort{Name: p.Name, Port: uint16(p.ContainerPort)})
				}
			}
			set.Workloads, next = append(set.Workloads, w), next.Next()
		}
		set.Workloads = append(set.Workloads, &resource.Workload{Name: "gateway-0", Namespace: "istio-system", Owner: "gateway", Labels: map[string]string{"istio": "ingressgateway"}, Address: next, Ready: true, Gateway: true})
		index := compile.Prepare(set)
		for _, w := range set.Workloads {
			out[filepath.Base(filepath.Dir(file))+"/"+w.Name] = index.Snapshot(index.Node(w))
		}
	}
	return out
}

func text(t testing.TB, s *ir.Snapshot) string {
	t.Helper()
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRoundTrip(t *testing.T) {
	for name, s := range snapshots(t) {
		for i, secret := range s.Secrets { // Envoy's Secret has no room for an origin
			c := *secret
			c.Origin = ir.Origin{}
			s.Secrets[i] = &c
		}
		s.Seal()
		r, err := Encode(s)
		if err != nil {
			t.Errorf("%s: encode: %v", name, err)
			continue
		}
		back, err := Decode(r, s.Node)
		if err != nil {
			t.Errorf("%s: decode: %v", name, err)
			continue
		}
		if want, got := text(t, s), text(t, back); want != got {
			w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
			for i := range w {
				if i == 1 {
					continue // the version is a hash: name what makes it differ
				}
				if i >= len(g) || w[i] != g[i] {
					t.Errorf("%s: line %d of the snapshot: sent %q, received %q", name, i, w[i], strings.Join(g[min(i, len(g)):min(i+1, len(g))], ""))
					break
				}
			}
		}
	}
}

// Envoy's own rules hold for everything that is sent.
func TestEncodedIsValidEnvoy(t *testing.T) {
	for name, s := range snapshots(t) {
		r, err := Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, resources := range r.ByType {
			for _, res := range resources {
				m, err := res.Body.UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				if v, ok := m.(interface{ ValidateAll() error }); ok {
					if err := v.ValidateAll(); err != nil {
						t.Errorf("%s: %s: %v", name, res.Name, err)
					}
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range snapshots(f) {
		if r, err := Encode(s); err == nil {
			for typ, resources := range r.ByType {
				for _, res := range resources {
					f.Add(typ, res.Body.Value)
				}
			}
		}
	}
	f.Fuzz(func(_ *testing.T, typ string, body []byte) {
		r := &Resources{ByType: map[string]map[string]*Resource{}}
		r.ByType[typ] = map[string]*Resource{"x": {Name: "x", Body: &anypb.Any{TypeUrl: typ, Value: body}}}
		_, _ = Decode(r, ir.Node{}) // an error is fine, a panic is not
	})
}

// server is an xDS server on an in-memory listener.
type server struct {
	*Server
	conn      *grpc.ClientConn
	connected chan *Conn
}

func serve(t *testing.T, o Options) *server {
	t.Helper()
	s := &server{connected: make(chan *Conn, 8)}
	o.Connected = func(c *Conn) { s.connected <- c }
	o.Disconnected = func(*Conn) {}
	o.Log = slog.New(slog.DiscardHandler)
	if o.Authorize == nil {
		o.Authorize = func(context.Context, ir.Node) error { return nil }
	}
	s.Server = NewServer(o)
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	s.Register(g)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l) // ends with Stop
	}()
	conn, err := grpc.NewClient("passthrough:///xds", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		<-done
	})
	return s
}

var testNode = ir.Node{Type: ir.Sidecar, Name: "web-0", Namespace: "shop", IPs: []string{"10.0.0.1"}, ServiceAccount: "web", TrustDomain: "cluster.local", DNSDomain: "shop.svc.cluster.local"}

func small(timeout time.Duration) *ir.Snapshot {
	s := &ir.Snapshot{Node: testNode,
		Listeners: []*ir.Listener{{Name: "0.0.0.0_80", Address: netip.MustParseAddrPort("0.0.0.0:80"), Direction: ir.Outbound, Chains: []*ir.FilterChain{{Name: "80", HTTP: &ir.HTTP{StatPrefix: "80", RouteTable: "80"}}}}},
		Routes:    []*ir.RouteTable{{Name: "80", VirtualHosts: []*ir.VirtualHost{{Name: "a", Domains: []string{"a"}, Routes: []*ir.Route{{Name: "r", Forward: &ir.Forward{Timeout: ir.Duration(timeout), Clusters: []ir.WeightedCluster{{Name: "c"}}}}}}}}},
		Clusters:  []*ir.Cluster{{Name: "c", Type: ir.EDS, Breaker: ir.DefaultBreaker()}},
		Endpoints: []*ir.EndpointSet{{Cluster: "c", Endpoints: []ir.Endpoint{{Address: "10.0.0.2:80"}}}},
	}
	return s.Seal()
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// A client applies what is pushed; a snapshot it refuses shows as NACK with the
// reason, and the next good one mends that.
func TestPushAckNack(t *testing.T) {
	s := serve(t, Options{})
	applied := make(chan *ir.Snapshot, 8)
	refuse := errors.New("listener 0.0.0.0_80: the port is taken")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, ClientOptions{Conn: s.conn, Node: testNode, Log: slog.New(slog.DiscardHandler), Apply: func(x *ir.Snapshot) error {
			if x.Routes[0].VirtualHosts[0].Routes[0].Forward.Timeout == ir.Duration(13*time.Second) {
				return refuse
			}
			applied <- x
			return nil
		}})
	}()
	defer func() {
		cancel()
		<-ended
	}()
	c := <-s.connected
	if c.Node().Principal() != testNode.Principal() || c.Node().Name != "web-0" {
		t.Errorf("node arrived as %+v", c.Node())
	}
	synced := func() bool { st := s.Status(); return len(st) == 1 && st[0].Synced() }
	first := small(5 * time.Second)
	c.Push(first)
	if got := <-applied; got.Version != first.Version || text(t, got) != text(t, first) {
		t.Errorf("applied %s, sent %s", text(t, got), text(t, first))
	}
	await(t, "synced", synced)

	c.Push(small(13 * time.Second))
	await(t, "NACK", func() bool {
		st := s.Status()
		for _, typ := range st[0].Types {
			if strings.Contains(typ.Nack, refuse.Error()) {
				return !st[0].Synced()
			}
		}
		return false
	})
	good := small(7 * time.Second)
	c.Push(good)
	if got := <-applied; got.Version != good.Version {
		t.Errorf("after a refusal: applied %s, sent %s", got.Version, good.Version)
	}
	await(t, "synced again", synced)
}

func TestUnauthorizedNode(t *testing.T) {
	s := serve(t, Options{Authorize: func(_ context.Context, n ir.Node) error {
		return grpcstatus.Errorf(codes.PermissionDenied, "not %s", n.Name)
	}})
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: EncodeNode(testNode), TypeUrl: ClusterType}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want PermissionDenied", err)
	}
}

// A raw delta client sees only what changed.
func TestDeltaSendsOnlyChanges(t *testing.T) {
	s := serve(t, Options{})
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *discovery.DeltaDiscoveryRequest) {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	recv := func() *discovery.DeltaDiscoveryResponse {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
		return r
	}
	send(&discovery.DeltaDiscoveryRequest{Node: EncodeNode(testNode), TypeUrl: ClusterType})
	send(&discovery.DeltaDiscoveryRequest{TypeUrl: RouteType, ResourceNamesSubscribe: []string{"80"}})
	c := <-s.connected
	c.Push(small(time.Second))
	seen := map[string]int{}
	for range 2 {
		r := recv()
		seen[r.TypeUrl] = len(r.Resources)
	}
	if seen[ClusterType] != 1 || seen[RouteType] != 1 {
		t.Errorf("first push: %v", seen)
	}
	c.Push(small(2 * time.Second)) // only the route differs
	if r := recv(); r.TypeUrl != RouteType || len(r.Resources) != 1 {
		t.Errorf("second push: %s with %d resources", r.TypeUrl, len(r.Resources))
	}
}

// A raw state-of-the-world client gets everything of the type, each time.
func TestStateOfTheWorld(t *testing.T) {
	s := serve(t, Options{})
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discovery.DiscoveryRequest{Node: EncodeNode(testNode), TypeUrl: ClusterType}); err != nil {
		t.Fatal(err)
	}
	c := <-s.connected
	for i := range 2 {
		next := small(time.Second)
		for j := range i + 1 {
			next.Clusters = append(next.Clusters, &ir.Cluster{Name: fmt.Sprint("more", j), Type: ir.EDS, Breaker: ir.DefaultBreaker()})
		}
		c.Push(next.Seal())
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Resources) != i+2 || r.VersionInfo != next.Version {
			t.Errorf("push %d: %d clusters of version %s", i, len(r.Resources), r.VersionInfo)
		}
		if err := stream.Send(&discovery.DiscoveryRequest{TypeUrl: r.TypeUrl, VersionInfo: r.VersionInfo, ResponseNonce: r.Nonce}); err != nil {
			t.Fatal(err)
		}
	}
}

// Somebody who never answers does not hold a stream for ever.
func TestStuckStreamIsClosed(t *testing.T) {
	s := serve(t, Options{StuckAfter: 40 * time.Millisecond})
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: EncodeNode(testNode), TypeUrl: ClusterType}); err != nil {
		t.Fatal(err)
	}
	(<-s.connected).Push(small(time.Second))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); grpcstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	if s.Stuck() != 1 {
		t.Errorf("%d streams counted as stuck", s.Stuck())
	}
}
