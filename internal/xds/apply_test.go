package xds

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// town is a sidecar's configuration with as many HTTP services of five
// endpoints each.
func town(services int) *ir.Snapshot {
	s := &ir.Snapshot{Node: ir.Node{Type: ir.Sidecar, Name: "web-0", Namespace: "shop"}}
	table := &ir.RouteTable{Name: "8000"}
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		host := name + ".shop.svc.cluster.local"
		cluster := "outbound|8000||" + host
		s.Clusters = append(s.Clusters, &ir.Cluster{Name: cluster, Type: ir.EDS, LB: ir.LeastRequest, Breaker: ir.DefaultBreaker(), ConnectTimeout: ir.Duration(10 * time.Second),
			Service: ir.ServiceRef{Host: host, Name: name, Namespace: "shop", Port: 8000}, Origin: ir.Origin{Kind: "Service", Namespace: "shop", Name: name, File: "shop.yaml", Line: i}})
		set := &ir.EndpointSet{Cluster: cluster}
		for j := range 5 {
			set.Endpoints = append(set.Endpoints, townEndpoint(name, i, j))
		}
		s.Endpoints = append(s.Endpoints, set)
		table.VirtualHosts = append(table.VirtualHosts, &ir.VirtualHost{Name: host + ":8000", Domains: []string{host, name, name + ".shop", name + ".shop.svc"},
			Routes: []*ir.Route{{Name: "default", Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: cluster}}, Retry: &ir.RetryPolicy{Attempts: 2, On: []string{"connect-failure"}}}}}})
	}
	s.Routes = []*ir.RouteTable{table}
	s.Listeners = []*ir.Listener{{Name: "out", Bind: true, Direction: ir.Outbound, Chains: []*ir.FilterChain{{Name: "8000", HTTP: &ir.HTTP{RouteTable: "8000"}}}}}
	return s.Seal()
}

func townEndpoint(name string, i, j int) ir.Endpoint {
	return ir.Endpoint{Address: fmt.Sprintf("10.%d.%d.%d:8000", i/250, i%250, j+1), Workload: ir.WorkloadRef{Workload: name, Instance: fmt.Sprintf("%s-%d", name, j),
		Namespace: "shop", Principal: "spiffe://cluster.local/ns/shop/sa/" + name, App: name, Version: "v1", CanonicalService: name, CanonicalRevision: "v1"}}
}

// sidecar is a client's memory and the proxy that it feeds.
type sidecar struct {
	t     testing.TB
	node  ir.Node
	view  *view
	proxy *proxy.Proxy
}

func newSidecar(t testing.TB, s *ir.Snapshot) *sidecar {
	p := proxy.New(proxy.Options{Listen: func(context.Context, *ir.Listener) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		p.Drain(ctx)
	})
	c := &sidecar{t, s.Node, newView(), p}
	r, err := Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, typeURL := range Types {
		m := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, SystemVersionInfo: s.Version}
		for _, name := range r.names(typeURL) {
			m.Resources = append(m.Resources, wire(r.ByType[typeURL][name]))
		}
		c.view.take(m)
	}
	c.apply()
	if c.proxy.Version() != s.Version {
		t.Fatalf("version %s, want %s", c.proxy.Version(), s.Version)
	}
	return c
}

func wire(r *Resource) *discovery.Resource {
	return &discovery.Resource{Name: r.Name, Version: r.Version, Resource: &anypb.Any{TypeUrl: r.Body.TypeUrl, Value: r.Body.Value}}
}

func (c *sidecar) apply() {
	s, err := c.view.snapshot(c.node)
	if err == nil {
		err = c.proxy.Apply(s)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// change is the response that takes an endpoint of one service out, or puts it
// back.
func change(t testing.TB, service int, without bool) *discovery.DeltaDiscoveryResponse {
	name := fmt.Sprintf("service-%d", service)
	set := &ir.EndpointSet{Cluster: "outbound|8000||" + name + ".shop.svc.cluster.local"}
	for j := range 5 {
		if !without || j != 4 {
			set.Endpoints = append(set.Endpoints, townEndpoint(name, service, j))
		}
	}
	r, err := Encode((&ir.Snapshot{Endpoints: []*ir.EndpointSet{set}}).Seal())
	if err != nil {
		t.Fatal(err)
	}
	return &discovery.DeltaDiscoveryResponse{TypeUrl: EndpointType, Resources: []*discovery.Resource{wire(r.ByType[EndpointType][set.Cluster])}}
}

// One endpoint costs what one endpoint costs: the number of allocations does
// not grow with the number of other services, and the memory only by a pointer
// for each list that snapshots share.
func TestApplyOneEndpointDoesNotTouchTheRest(t *testing.T) {
	measure := func(services int) (objects, bytes float64) {
		c := newSidecar(t, town(services))
		both := []*discovery.DeltaDiscoveryResponse{change(t, 7, true), change(t, 7, false)}
		i := 0
		once := func() {
			c.view.take(both[i%2])
			i++
			c.apply()
		}
		once()
		const runs = 50
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			once()
		}
		runtime.ReadMemStats(&after)
		if want := town(services).Version; i%2 == 0 && c.proxy.Version() != want {
			t.Errorf("version %s after going back and forth, want %s", c.proxy.Version(), want)
		}
		return float64(after.Mallocs-before.Mallocs) / runs, float64(after.TotalAlloc-before.TotalAlloc) / runs
	}
	fewObjects, fewBytes := measure(20)
	manyObjects, manyBytes := measure(1000)
	t.Logf("20 services: %.0f objects, %.0f bytes; 1000: %.0f, %.0f", fewObjects, fewBytes, manyObjects, manyBytes)
	if manyObjects > fewObjects*1.1+10 {
		t.Errorf("allocations grow with the services: %.0f of 20, %.0f of 1000", fewObjects, manyObjects)
	}
	if perService := (manyBytes - fewBytes) / 980; perService > 16 {
		t.Errorf("each other service costs %.0f bytes", perService)
	}
}

// The rest of the configuration is the same objects afterwards.
func TestSnapshotsShareWhatDidNotChange(t *testing.T) {
	c := newSidecar(t, town(5))
	before := c.proxy.Snapshot()
	c.view.take(change(t, 3, true))
	c.apply()
	after := c.proxy.Snapshot()
	if before.Version == after.Version {
		t.Error("the version did not change")
	}
	for i := range before.Endpoints {
		if same := before.Endpoints[i] == after.Endpoints[i]; same == (i == 3) {
			t.Errorf("%s: the same object: %v", after.Endpoints[i].Cluster, same)
		}
	}
	if before.Clusters[0] != after.Clusters[0] || before.Routes[0] != after.Routes[0] || before.Listeners[0] != after.Listeners[0] {
		t.Error("other resources were decoded again")
	}
}

func BenchmarkApplyOneEndpoint(b *testing.B) {
	c := newSidecar(b, town(1000))
	both := []*discovery.DeltaDiscoveryResponse{change(b, 7, true), change(b, 7, false)}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.view.take(both[i%2])
		c.apply()
	}
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
}
