package ir

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func snapshot(order ...int) *Snapshot {
	s := &Snapshot{}
	for _, i := range order {
		n := string(rune('a' + i))
		s.Listeners = append(s.Listeners, &Listener{Name: n})
		s.Routes = append(s.Routes, &RouteTable{Name: n})
		s.Clusters = append(s.Clusters, &Cluster{Name: n, ConnectTimeout: Duration(time.Second)})
		s.Endpoints = append(s.Endpoints, &EndpointSet{Cluster: n, Endpoints: []Endpoint{{Address: "10.0.0.1:80"}}})
		s.Secrets = append(s.Secrets, &Secret{Name: n, Key: []byte("k")})
	}
	return s
}

// Equal versions mean equal behaviour: order and node do not count, everything
// else does.
func TestSeal(t *testing.T) {
	first := snapshot(0, 1, 2).Seal()
	if len(first.Version) != 12 {
		t.Errorf("version %q", first.Version)
	}
	other := snapshot(2, 0, 1)
	other.Node = Node{Name: "elsewhere"}
	if got := other.Seal().Version; got != first.Version {
		t.Errorf("order or node changes the version: %s, %s", first.Version, got)
	}
	if again := first.Seal().Version; again != first.Version {
		t.Error("sealing twice changes the version")
	}
	for name, change := range map[string]func(*Snapshot){
		"listener": func(s *Snapshot) { s.Listeners[0].Bind = true },
		"route":    func(s *Snapshot) { s.Routes[0].VirtualHosts = []*VirtualHost{{Name: "v"}} },
		"cluster":  func(s *Snapshot) { s.Clusters[0].ConnectTimeout++ },
		"endpoint": func(s *Snapshot) { s.Endpoints[0].Endpoints[0].Health = Unhealthy },
		"key":      func(s *Snapshot) { s.Secrets[0].Key = []byte("other") },
		"removed":  func(s *Snapshot) { s.Clusters = s.Clusters[1:] },
	} {
		s := snapshot(0, 1, 2)
		change(s)
		if s.Seal().Version == first.Version {
			t.Errorf("%s: the version does not change", name)
		}
	}
	if first.Cluster("b") == nil || first.RouteTable("b") == nil || first.EndpointSet("b") == nil {
		t.Error("a resource is not found")
	}
	if first.Cluster("z") != nil || first.RouteTable("z") != nil || first.EndpointSet("z") != nil {
		t.Error("a resource is found that is not there")
	}
}

func TestNodeID(t *testing.T) {
	for _, n := range []Node{
		{Type: Sidecar, Name: "worker-0", Namespace: "shop", IPs: []string{"10.244.0.3"}, DNSDomain: "shop.svc.cluster.local"},
		{Type: Router, Name: "edge.a.b", Namespace: "istio-system", IPs: []string{"fd00::1"}, DNSDomain: "x.svc.example.org"},
		{Type: Sidecar, Name: "worker-0", Namespace: "shop", DNSDomain: "shop.svc.cluster.local"},
	} {
		got, err := ParseNodeID(n.ID())
		if err != nil || !reflect.DeepEqual(got, n) {
			t.Errorf("%s: have %+v (%v), want %+v", n.ID(), got, err, n)
		}
	}
	if got := (Node{Type: Sidecar, Name: "w", Namespace: "shop", IPs: []string{"1.2.3.4", "fd00::1"}}).ID(); got != "sidecar~1.2.3.4~w.shop~shop.svc.cluster.local" {
		t.Errorf("have %s", got)
	}
	for _, id := range []string{"", "sidecar~1.2.3.4~w.shop", "sidecar~1.2.3.4~w.shop~d~e", "ztunnel~1.2.3.4~w.shop~d", "sidecar~1.2.3.4~shop~d", "sidecar~1.2.3.4~.shop~d", "sidecar~1.2.3.4~w.~d"} {
		if n, err := ParseNodeID(id); err == nil {
			t.Errorf("%q is taken for %+v", id, n)
		}
	}
}

func TestPrincipal(t *testing.T) {
	for want, n := range map[string]Node{
		"spiffe://cluster.local/ns/shop/sa/default": {Namespace: "shop"},
		"spiffe://example.org/ns/shop/sa/worker":    {Namespace: "shop", ServiceAccount: "worker", TrustDomain: "example.org"},
	} {
		if got := n.Principal(); got != want {
			t.Errorf("have %s, want %s", got, want)
		}
	}
}

// A key is never printed, in whatever way a secret reaches the output.
func TestSecretIsNeverPrinted(t *testing.T) {
	const key = "TOPSECRET"
	s := Secret{Name: "n", Cert: []byte("cert"), Key: []byte(key)}
	var out strings.Builder
	for _, v := range []any{s, &s, []Secret{s}, []*Secret{&s}, struct{ S Secret }{s}, map[string]Secret{"a": s}, &Snapshot{Secrets: []*Secret{&s}}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q\n", v, v, v, v, v)
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	for _, leak := range []string{key, fmt.Sprint([]byte(key)), fmt.Sprintf("%#v", []byte(key)), "VE9QU0VDUkVU"} {
		if i := strings.Index(out.String(), leak); i >= 0 {
			t.Errorf("%q is printed: %.120s", leak, out.String()[max(0, i-60):])
		}
	}
	twin := s
	twin.Key = []byte("other")
	if s.Fingerprint() == twin.Fingerprint() || !strings.Contains(s.String(), s.Fingerprint()) {
		t.Error("the fingerprint does not tell keys apart")
	}
}

func TestDuration(t *testing.T) {
	b, err := json.Marshal(Duration(90 * time.Second))
	var d Duration
	if err != nil || string(b) != `"1m30s"` || json.Unmarshal(b, &d) != nil || d.D() != 90*time.Second {
		t.Errorf("have %s, %v, %v", b, d, err)
	}
	for _, bad := range []string{`"soon"`, `5`, `null1`} {
		if json.Unmarshal([]byte(bad), &d) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestOrigin(t *testing.T) {
	for want, o := range map[string]Origin{
		"default": {},
		"VirtualService shop/worker (vs.yaml:12)": {Kind: "VirtualService", Namespace: "shop", Name: "worker", File: "vs.yaml", Line: 12},
		"Namespace shop":        {Kind: "Namespace", Name: "shop"},
		"Gateway a/b (gw.yaml)": {Kind: "Gateway", Namespace: "a", Name: "b", File: "gw.yaml"},
	} {
		if got := o.String(); got != want {
			t.Errorf("have %q, want %q", got, want)
		}
	}
}
