package compile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const described = `apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  selector: {app: api}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-x, port: 9000, targetPort: nowhere}]
---
apiVersion: v1
kind: Service
metadata: {name: lost, namespace: shop}
spec: {selector: {app: lost}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: api, namespace: shop}
spec: {selector: {matchLabels: {version: v1}}, mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [dark]}}]}, {to: [{operation: {paths: [/x]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: v1, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {selector: {matchLabels: {version: v1}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: other, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec: {jwtRules: [{issuer: a, jwksUri: "https://a/keys"}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a-first, namespace: shop}
spec: {hosts: [api], http: [{route: [{destination: {host: api, subset: v1}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b-rival, namespace: shop}
spec: {hosts: [api], http: [{route: [{destination: {host: api}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: c-tcp, namespace: shop}
spec: {hosts: [api], tcp: [{route: [{destination: {host: api}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: d-edge, namespace: edge}
spec: {hosts: [shop.example], gateways: [door, mesh], http: [{route: [{destination: {host: api.shop.svc.cluster.local}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: e-elsewhere, namespace: edge}
spec: {hosts: [api], http: [{route: [{destination: {host: api}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: shop}
spec: {host: api, subsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: more, namespace: shop}
spec: {host: api, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, loadBalancer: {simple: RANDOM}}, subsets: [{name: v2, labels: {version: v2}}]}
`

func describedIndex(t *testing.T, manifests string) *Index {
	t.Helper()
	set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: []byte(manifests)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	pod := func(name, version string, sidecar, ready bool) *resource.Workload {
		return &resource.Workload{Name: name, Namespace: "shop", Owner: "api", OwnerKind: "Deployment", Labels: map[string]string{"app": "api", "version": version}, ServiceAccount: "api",
			Address: netip.MustParseAddr("10.0.0.1"), Ports: []resource.WorkloadPort{{Name: "http", Port: 8080}}, Sidecar: sidecar, Ready: ready}
	}
	set.Workloads = []*resource.Workload{pod("api-v1", "v1", true, false), pod("api-v2", "v2", true, true), pod("api-bare", "v2", false, true)}
	return Prepare(set)
}

// brief writes each part of a view on a line.
func brief(v *ServiceView) string {
	var b strings.Builder
	name := func(o ir.Origin) string { return fmt.Sprintf("%s/%s:%d", o.Namespace, o.Name, o.Line) }
	for _, p := range v.Ports {
		fmt.Fprintf(&b, "port %d %s %s", p.Port, p.Protocol, p.Target)
		for _, m := range p.Modes {
			fmt.Fprintf(&b, " %s:%d", m.Mode, m.Origin.Line)
		}
		b.WriteByte('\n')
	}
	for _, e := range v.Endpoints {
		fmt.Fprintf(&b, "endpoint %s %s %v ready=%t sidecar=%t\n", e.Workload, e.Address, e.Ports, e.Ready, e.Sidecar)
	}
	for _, r := range v.Routes {
		fmt.Fprintf(&b, "route %s %s\n", name(r.Origin), strings.Join(r.Seen, "; "))
	}
	for _, r := range v.Rules {
		fmt.Fprintf(&b, "rule %s %v", name(r.Origin), r.Says)
		for _, s := range r.Subsets {
			fmt.Fprintf(&b, " %s=%d:%d", s.Name, s.Workloads, s.Origin.Line)
		}
		b.WriteByte('\n')
	}
	for _, p := range v.Policies {
		fmt.Fprintf(&b, "policy %s %s rules=%d dry=%t %v\n", p.Action, name(p.Origin), p.Rules, p.DryRun, p.Only)
	}
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "problem %s\n", p)
	}
	return b.String()
}

// A service's view names what its callers meet, with the lines: of two that
// name the host the older one, tcp routes of all, subsets object by object.
func TestDescribeService(t *testing.T) {
	const want = `port 80 HTTP 8080 STRICT:16 PERMISSIVE:0 NO SIDECAR:0
port 9000 TCP nowhere
endpoint api-v1 10.0.0.1 [8080] ready=false sidecar=true
endpoint api-v2 10.0.0.1 [8080] ready=true sidecar=true
endpoint api-bare 10.0.0.1 [8080] ready=true sidecar=false
route shop/a-first:38 sidecars
route shop/b-rival:43 no sidecar: shop/a-first names the host too and is older
route shop/c-tcp:48 sidecars
route edge/d-edge:53 sidecars that call shop.example; gateway door
rule shop/api:63 [] v1=1:66 v3=0:66
rule shop/more:68 [loadBalancer tls ISTIO_MUTUAL] v2=2:71
policy JWT shop/tokens:33 rules=1 dry=false [api-v1 api-v2]
policy DENY istio-system/all:18 rules=2 dry=false [api-v1 api-v2]
policy ALLOW shop/v1:23 rules=1 dry=true [api-v1]
problem in.yaml:6: Service shop/api: spec.ports[1].targetPort: none of its workloads has a container port named nowhere
`
	x := describedIndex(t, described)
	for _, name := range []string{"api", "api.shop", "api.shop.svc.cluster.local"} {
		views := x.DescribeServices(name, "")
		if len(views) != 1 {
			t.Fatalf("%s means %d services", name, len(views))
		}
		if got := brief(views[0]); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	if views := x.DescribeServices("api", "edge"); len(views) != 0 {
		t.Errorf("found in another namespace: %s", brief(views[0]))
	}
}

func TestDescribeServiceWithoutWorkloads(t *testing.T) {
	v := describedIndex(t, described).DescribeServices("lost", "shop")[0]
	const want = "problem in.yaml:11: Service shop/lost: spec.selector: it selects no workload"
	if got := brief(v); !strings.Contains(got, want) || strings.Count(got, "problem") != 1 {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// Callers that a DestinationRule keeps from showing a certificate are refused by
// a STRICT port.
func TestDescribePlaintextToStrict(t *testing.T) {
	v := describedIndex(t, strings.Replace(described, "mode: ISTIO_MUTUAL", "mode: DISABLE", 1)).DescribeServices("api", "shop")[0]
	const want = "problem in.yaml:71: DestinationRule shop/more: spec.trafficPolicy.tls: callers of port 80 of api show no certificate, and PeerAuthentication shop/api (in.yaml:16) makes it STRICT"
	if got := brief(v); !strings.Contains(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// An instance's view has its own modes and policies, and its services as if it
// were their only endpoint.
func TestDescribeWorkload(t *testing.T) {
	x := describedIndex(t, described)
	v := x.DescribeWorkload(x.Workload("api-v1"))
	if v.Owner != "Deployment/api" || v.Identity != "spiffe://cluster.local/ns/shop/sa/api" || v.Ready || len(v.Ports) != 1 || v.Ports[0].Modes[0].Mode != "STRICT" || len(v.Policies) != 3 || v.Policies[0].Only != nil {
		t.Errorf("%+v", v)
	}
	if len(v.Services) != 1 {
		t.Fatalf("%d services, want one", len(v.Services))
	}
	got := brief(v.Services[0])
	for _, want := range []string{"port 80 HTTP 8080 STRICT:16\n", "endpoint api-v1 10.0.0.1 [8080]", "v1=1:66\nrule", "more:68 [loadBalancer tls ISTIO_MUTUAL]\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nwant %q", got, want)
		}
	}
	if strings.Contains(got, "problem") {
		t.Errorf("problems of the service are not the instance's:\n%s", got)
	}
	if v := x.DescribeWorkload(x.Workload("api-bare")); v.Identity != "" || v.Ports[0].Modes[0].Mode != NoSidecar || len(v.Policies) != 0 {
		t.Errorf("without a sidecar: %+v", v)
	}
}
