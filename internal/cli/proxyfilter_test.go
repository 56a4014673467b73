package cli

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/up"
)

// web's sidecar: listeners of each type;
// a service with a subset; endpoints of which one is not well.
func runWithWeb(t *testing.T) {
	http, tcp := &ir.FilterChain{HTTP: &ir.HTTP{}}, &ir.FilterChain{TCP: &ir.TCPProxy{Clusters: []ir.WeightedCluster{{Name: "db"}}}}
	passes := &ir.FilterChain{TCP: &ir.TCPProxy{Clusters: []ir.WeightedCluster{{Name: ir.PassthroughCluster}}}}
	at := netip.MustParseAddrPort
	snapshot := ir.Snapshot{
		Listeners: []*ir.Listener{
			{Name: "both", Address: at("0.0.0.0:8000"), Chains: []*ir.FilterChain{http}, Default: tcp},
			{Name: "catchall", Address: at("0.0.0.0:15001"), Default: passes},
			{Name: "dns", Address: at("127.0.0.1:15053"), DNS: &ir.DNS{}},
			{Name: "http", Address: at("[::1]:8080"), Chains: []*ir.FilterChain{http}, Default: passes},
			{Name: "tcp", Address: at("10.0.0.1:8000"), Chains: []*ir.FilterChain{tcp}},
		},
		Routes: []*ir.RouteTable{{Name: "8000"}, {Name: "80"}},
		Clusters: []*ir.Cluster{
			{Name: ir.BlackHoleCluster}, {Name: "inbound|8000||"},
			{Name: "outbound|8000|v1|worker.shop.svc.cluster.local"}, {Name: "outbound|8000|v10|worker.shop.svc.cluster.local"}, {Name: "outbound|80||web.shop.svc.cluster.local"},
		},
	}
	endpoint := func(address, status string) agent.EndpointStatus {
		return agent.EndpointStatus{Endpoint: ir.Endpoint{Address: address}, Status: status}
	}
	clusters := []agent.ClusterStatus{
		{Name: "empty"},
		{Name: "outbound|80||web", Endpoints: []agent.EndpointStatus{endpoint("10.0.0.1:80", "HEALTHY")}},
		{Name: "outbound|8000||worker", Endpoints: []agent.EndpointStatus{endpoint("10.0.0.2:8000", "HEALTHY"), endpoint("10.0.0.3:8000", "UNHEALTHY"), endpoint("unix:/run/x", "HEALTHY")}},
	}
	standInRun(t, []up.WorkloadStatus{{Name: "web", Namespace: "shop"}}, map[string]any{
		"/v1/sidecars/web.shop/config_dump": snapshot, "/v1/sidecars/web.shop/clusters": clusters,
	})
}

// Each filter leaves what istioctl's of that name leaves, by every alias.
func TestProxyConfigFilters(t *testing.T) {
	runWithWeb(t)
	for _, tc := range []struct{ line, want string }{
		{"listeners web", "both catchall dns http tcp"},
		{"l web --port 8000", "both tcp"},
		{"listener web --address 0:0:0:0:0:0:0:1", "http"},
		{"listener web --type http+tcp", "both"},
		{"listener web --type HTTP", "http"},
		{"listener web --type tcp --port 8000", "tcp"},
		{"listener web --type tcp --address 0.0.0.0", "catchall"},
		{"listener web --type dns", "dns"},
		{"routes web", "8000 80"},
		{"r web --name 80", "80"},
		{"c web --fqdn worker.shop.svc.cluster.local", "outbound|8000|v1|worker.shop.svc.cluster.local outbound|8000|v10|worker.shop.svc.cluster.local"},
		{"cluster web --subset v1", "outbound|8000|v1|worker.shop.svc.cluster.local"},
		{"cluster web --direction Inbound", "inbound|8000||"},
		{"cluster web --port 80 --direction outbound", "outbound|80||web.shop.svc.cluster.local"},
		{"ep web", "empty outbound|80||web 10.0.0.1:80 outbound|8000||worker 10.0.0.2:8000 10.0.0.3:8000 unix:/run/x"},
		{"ep web --cluster outbound|80||WEB", "outbound|80||web 10.0.0.1:80"},
		{"ep web --status unhealthy", "outbound|8000||worker 10.0.0.3:8000"},
		{"ep web --port 8000 --status healthy", "outbound|8000||worker 10.0.0.2:8000"},
		{"ep web --address 10.0.0.1", "outbound|80||web 10.0.0.1:80"},
	} {
		out, errs, code := tulle(t, "pc "+tc.line+" -o json")
		var list []struct {
			Name      string
			Endpoints []struct{ Address string }
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || errs != "" {
			t.Fatalf("%s: %v, exit %d %s\n%s", tc.line, err, code, errs, out)
		}
		var got []string
		for _, x := range list {
			got = append(got, x.Name)
			for _, e := range x.Endpoints {
				got = append(got, e.Address)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v, want %s", tc.line, got, tc.want)
		}
	}
}

// The table has the rows that JSON has; nothing is said on standard error.
func TestProxyConfigTableIsFiltered(t *testing.T) {
	runWithWeb(t)
	out, errs, code := tulle(t, "pc endpoints web --status unhealthy")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || errs != "" || len(lines) != 2 || !strings.HasPrefix(lines[1], "10.0.0.3:8000") {
		t.Errorf("exit %d %s\n%s", code, errs, out)
	}
}

func TestProxyConfigFindsNothing(t *testing.T) {
	runWithWeb(t)
	for line, want := range map[string]string{"pc c web --subset v9": "", "pc c web --subset v9 -o json": "[]\n", "pc ep web --status draining -o yaml": "[]\n"} {
		out, errs, code := tulle(t, line)
		if code != 0 || out != want || !strings.HasPrefix(errs, "No ") || !strings.HasSuffix(errs, " found in web.\n") {
			t.Errorf("%s: exit %d, standard output %q, want %q; standard error %q", line, code, out, want, errs)
		}
	}
}
