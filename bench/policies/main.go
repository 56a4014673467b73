// Command policies measures what authorization costs a request: 1000
// AuthorizationPolicies in the mesh, 20 of them on the workload, and a request
// that none of them matches. It ends with 1 when the bar is missed.
package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	namespaces = 50
	each       = 20 // policies of a namespace
	rounds     = 7
	requests   = 300_000
	bar        = time.Microsecond
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	missed := false
	for _, action := range []string{"ALLOW", "DENY"} {
		engine, err := engine(action)
		if err != nil {
			return err
		}
		for _, in := range misses() {
			if engine.Check(in.input, nil).Allow == (action == "ALLOW") {
				return fmt.Errorf("%s %s: a policy matches", action, in.name)
			}
			cost, allocations := measure(engine, in.input)
			fmt.Printf("policies-%s %s: %d ns/request, %v allocations (bar %d ns, 0)\n", strings.ToLower(action), in.name, cost.Nanoseconds(), allocations, bar.Nanoseconds())
			missed = missed || cost > bar || allocations > 0
		}
	}
	if missed {
		return fmt.Errorf("the bar is missed")
	}
	return nil
}

// measure is the CPU time of one decision, of several rounds the best: other
// work on the machine only ever adds.
func measure(e *authz.Engine, in *authz.Input) (best time.Duration, allocations float64) {
	allocations = testing.AllocsPerRun(1000, func() { e.Check(in, nil) })
	for range rounds {
		before := cpuTime()
		for range requests {
			e.Check(in, nil)
		}
		if d := (cpuTime() - before) / requests; best == 0 || d < best {
			best = d
		}
	}
	return best, allocations
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it has no arguments that could be wrong
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// engine compiles a mesh of namespaces with policies of one action, and takes
// those of one workload's HTTP port.
func engine(action string) (*authz.Engine, error) {
	var y strings.Builder
	for n := range namespaces {
		fmt.Fprintf(&y, "apiVersion: v1\nkind: Service\nmetadata: {name: app, namespace: ns%d}\nspec: {clusterIP: 10.0.0.%d, selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}]}\n---\n", n, n+1)
		for p := range each {
			fmt.Fprintf(&y, `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p%[2]d, namespace: ns%[1]d}
spec:
  action: %[3]s
  rules:
  - from: [{source: {principals: [cluster.local/ns/ns%[1]d/sa/web, cluster.local/ns/shop/sa/caller%[2]d, "*/sa/operator"], notNamespaces: [bad]}}]
    to: [{operation: {methods: [GET, HEAD], paths: [/service%[2]d, /service%[2]d/*, "*/service%[2]d.json"], ports: ["8080"]}}]
    when: [{key: "request.headers[x-tenant]", values: [acme, "test-*"]}]
  - from: [{source: {namespaces: [ns%[1]d, "team-*"], notIpBlocks: [192.0.2.0/24]}}]
    to: [{operation: {hosts: [app, "*.example.com"], notMethods: [DELETE], paths: ["/objects/{*}/%[2]d", /exports/%[2]d/*]}}]
---
`, n, p, action)
		}
	}
	set, problems := resource.Parse([]resource.File{{Name: "mesh.yaml", Data: []byte(y.String())}})
	for _, p := range problems {
		if p.Severity == resource.Error {
			return nil, fmt.Errorf("%s", p)
		}
	}
	w := &resource.Workload{Name: "app-0", Namespace: "ns7", Owner: "app", Labels: map[string]string{"app": "app"}, ServiceAccount: "app", Address: netip.MustParseAddr("10.1.0.7"), Ready: true, Sidecar: true, Ports: []resource.WorkloadPort{{Name: "http", Port: 8080}}}
	set.Workloads = append(set.Workloads, w)
	x := compile.Prepare(set)
	for _, l := range x.Snapshot(x.Node(w)).Listeners {
		for _, c := range l.Chains {
			if c.Match.Port == 8080 && c.HTTP != nil && c.TLS != nil {
				if n := len(c.Filters[0].RBAC.Policies); n != 2*each {
					return nil, fmt.Errorf("the workload has %d rules, want %d", n, 2*each)
				}
				return authz.New(c.Filters)
			}
		}
	}
	return nil, fmt.Errorf("the workload has no port")
}

type miss struct {
	name  string
	input *authz.Input
}

// misses are requests that each rule looks at for long: at the first of them
// everything but the path fits.
func misses() []miss {
	input := func(principal, host, path string, headers ...string) *authz.Input {
		fields := &header.Map{}
		for i := 0; i+1 < len(headers); i += 2 {
			fields.Add(headers[i], headers[i+1])
		}
		return &authz.Input{Principal: principal, SourceIP: netip.MustParseAddr("10.1.0.1"), RemoteIP: netip.MustParseAddr("10.1.0.1"),
			DestinationIP: netip.MustParseAddr("10.1.0.7"), DestinationPort: 8080, HTTP: true, Host: host, Method: "GET", Path: path, Headers: fields}
	}
	const web = "spiffe://cluster.local/ns/ns7/sa/web"
	return []miss{
		{"path", input(web, "app", "/objects/1234567890/none", "user-agent", "bench", "accept", "*/*", "x-tenant", "acme")},
		{"everything", input("spiffe://cluster.local/ns/other/sa/other", "other", "/none", "user-agent", "bench")},
		{"header", input(web, "other", "/service3/items", "user-agent", "bench", "accept", "*/*", "x-tenant", "other")},
	}
}
