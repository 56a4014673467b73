package proxy

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// A connection to a listener's own socket was going nowhere else: to send it to
// its original destination would be a loop.
func TestDirectConnectionHasNoOriginalDestination(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:0")
	p := New(Options{})
	t.Cleanup(func() { p.Drain(t.Context()) })
	s := &ir.Snapshot{
		Listeners: []*ir.Listener{{Name: "own", Address: at, Direction: ir.Outbound, Bind: true, Chains: []*ir.FilterChain{{Name: "own", HTTP: &ir.HTTP{RouteTable: "t"}}}}},
		Routes: []*ir.RouteTable{{Name: "t", VirtualHosts: []*ir.VirtualHost{{Name: "any", Domains: []string{"*"}, Routes: []*ir.Route{
			{Name: "any", Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: ir.PassthroughCluster}}}}}}}}},
		Clusters: []*ir.Cluster{{Name: ir.PassthroughCluster, Type: ir.OriginalDst, LB: ir.ClusterProvided, Breaker: ir.DefaultBreaker()}},
	}
	if err := p.Apply(s.Seal()); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + p.Addr(at).String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", resp.StatusCode)
	}
}
