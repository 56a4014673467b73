package machine

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const services = `apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  selector: {app: api}
  ports: [{name: http, port: 80, targetPort: web}, {name: dns, port: 53, protocol: UDP, targetPort: dns}, {name: plain, port: 81}, {name: sctp, port: 82, protocol: SCTP}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, selector: {app: api}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: six, namespace: shop}
spec: {clusterIP: "fd00::1", selector: {app: api}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: thief, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: other}, ports: [{port: 80}]}
`

// Where service ports lead: to all ready replicas of their namespace that have
// the port, by its name where that is asked for.
func TestForwards(t *testing.T) {
	set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: []byte(services)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	r := &Room{set: set, pods: map[string]*pod{}}
	add := func(name, ns, app string, addr string, ready bool, tcp, udp []resource.WorkloadPort) *pod {
		p := &pod{spec: &podSpec{Name: name, Namespace: ns, Labels: map[string]string{"app": app}, Ports: tcp, UDPPorts: udp}, addr: netip.MustParseAddr(addr)}
		p.ready.Store(ready)
		r.pods[p.spec.key()] = p
		return p
	}
	web, dns := []resource.WorkloadPort{{Name: "web", Port: 8080}}, []resource.WorkloadPort{{Name: "dns", Port: 5353}}
	add("api-0", "shop", "api", "10.244.0.2", true, web, dns)
	add("api-1", "shop", "api", "10.244.0.3", true, []resource.WorkloadPort{{Name: "web", Port: 9090}}, nil)
	waiting := add("api-2", "shop", "api", "10.244.0.4", false, web, dns)
	add("api-0", "mall", "api", "10.244.0.5", true, web, dns)
	add("other-0", "shop", "other", "10.244.0.6", true, web, dns)
	check := func(want string) {
		t.Helper()
		var got strings.Builder
		for _, f := range r.forwards() {
			protocol := "tcp"
			if f.UDP {
				protocol = "udp"
			}
			fmt.Fprintln(&got, f.From, protocol, f.To)
		}
		if got.String() != want {
			t.Errorf("forwards:\n%swant:\n%s", got.String(), want)
		}
	}
	check(`10.96.0.1:80 tcp [10.244.0.2:8080 10.244.0.3:9090]
10.96.0.1:53 udp [10.244.0.2:5353]
10.96.0.1:81 tcp [10.244.0.2:81 10.244.0.3:81]
10.96.0.2:80 tcp []
`)
	// Equal as long as nothing changed: nobody's rules are replaced for nothing.
	for before, n := r.forwards(), 0; n < 20; n++ {
		if !reflect.DeepEqual(before, r.forwards()) {
			t.Fatal("the order changes by itself")
		}
	}
	waiting.ready.Store(true)
	check(`10.96.0.1:80 tcp [10.244.0.2:8080 10.244.0.3:9090 10.244.0.4:8080]
10.96.0.1:53 udp [10.244.0.2:5353 10.244.0.4:5353]
10.96.0.1:81 tcp [10.244.0.2:81 10.244.0.3:81 10.244.0.4:81]
10.96.0.2:80 tcp []
`)
}
