package cli

import (
	"encoding/json"
	"testing"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

func describedService() compile.ServiceView {
	origin := func(kind, name string, line int) ir.Origin {
		return ir.Origin{Kind: kind, Namespace: "shop", Name: name, File: "in.yaml", Line: line}
	}
	return compile.ServiceView{
		Namespace: "shop", Name: "api", Host: "api.shop.svc.cluster.local", Origin: origin("Service", "api", 1),
		Ports: []compile.PortView{
			{Port: 80, Name: "http", Protocol: "HTTP", Target: "8080", Modes: []compile.ModeView{{Mode: "STRICT", Origin: origin("PeerAuthentication", "api", 5)}, {Mode: "PERMISSIVE"}, {Mode: compile.NoSidecar}}},
			{Port: 81, Protocol: "auto", Target: "81"},
		},
		Endpoints: []compile.EndpointView{{Workload: "api-0", Address: "10.0.0.1", Ports: []uint16{8080, 81}, Ready: true}},
		Routes:    []compile.RouteView{{Origin: origin("VirtualService", "api", 9), Seen: []string{"sidecars", "gateway door"}}},
		Rules:     []compile.RuleView{{Origin: origin("DestinationRule", "api", 12), Subsets: []compile.SubsetView{{Name: "v1", Workloads: 1}}}},
		Policies:  []compile.PolicyView{{Action: "ALLOW", DryRun: true, Rules: 2, Origin: origin("AuthorizationPolicy", "api", 20), Only: []string{"api-0"}}},
	}
}

func TestDescribeServicePage(t *testing.T) {
	standInRun(t, nil, map[string]any{"/v1/describe/service/api": []compile.ServiceView{describedService()}})
	const want = `Service:    shop/api
Host:       api.shop.svc.cluster.local
Address:    -
From:       in.yaml:1
Ports:
  PORT   NAME   PROTOCOL   TARGET   MTLS         FROM
  80     http   HTTP       8080     STRICT       in.yaml:5
  80     http   HTTP       8080     PERMISSIVE   default
  80     http   HTTP       8080     NO SIDECAR   -
  81     -      auto       81       -            -
Endpoints:
  WORKLOAD   ADDRESS    PORTS     READY   SIDECAR
  api-0      10.0.0.1   8080,81   yes     no
VirtualServices:
  NAME       SEEN BY                  FROM
  shop/api   sidecars, gateway door   in.yaml:9
DestinationRules:
  NAME       SAYS   SUBSETS   FROM
  shop/api   -      v1 (1)    in.yaml:12
Policies:
  ACTION            NAME       RULES   ON      FROM
  ALLOW (dry run)   shop/api   2       api-0   in.yaml:20
Problems:   none
`
	for _, line := range []string{"describe svc api", "describe service/api", "describe Services api -n shop"} {
		if out, errs, code := tulle(t, line); code != 0 || out != want {
			t.Errorf("%s: exit %d %s\n%s\nwant\n%s", line, code, errs, out, want)
		}
	}
	out, _, _ := tulle(t, "describe svc api -o json")
	var got []compile.ServiceView
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != 1 || got[0].Host != "api.shop.svc.cluster.local" {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDescribePodPage(t *testing.T) {
	service := describedService()
	service.Endpoints, service.Policies = nil, nil
	page := compile.WorkloadView{Namespace: "shop", Name: "api-0", Owner: "Deployment/api", Ports: []compile.PortView{{Port: 8080, Modes: service.Ports[0].Modes[:1]}},
		Services: []*compile.ServiceView{&service}, Problems: []resource.Problem{{Severity: resource.Warning, Origin: service.Origin, Reason: "something"}}}
	standInRun(t, nil, map[string]any{"/v1/describe/pod/api-0": []compile.WorkloadView{page}})
	const want = `Pod:        shop/api-0
Owner:      Deployment/api
Address:    -
Identity:   none: it has no proxy
Ready:      no
Ports:
  PORT   NAME   MTLS     FROM
  8080   -      STRICT   in.yaml:5
Policies:   none

Service:    api.shop.svc.cluster.local
From:       in.yaml:1
Ports:      80 HTTP to 8080, 81 auto to 81
VirtualServices:
  NAME       SEEN BY                  FROM
  shop/api   sidecars, gateway door   in.yaml:9
DestinationRules:
  NAME       SAYS   SUBSETS   FROM
  shop/api   -      v1 (1)    in.yaml:12

Problems:
  warning: in.yaml:1: Service shop/api: something
`
	for _, line := range []string{"describe pod api-0", "describe po/api-0", "describe pods api-0"} {
		if out, errs, code := tulle(t, line); code != 0 || out != want {
			t.Errorf("%s: exit %d %s\n%s\nwant\n%s", line, code, errs, out, want)
		}
	}
}
