package resource

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	meshv1 "istio.io/api/mesh/v1alpha1"
)

// The merge is Istio's (mesh.ApplyProxyConfig of the release that go.mod names
// made these out of the same texts).
func TestMergeProxyConfig(t *testing.T) {
	const base = `{"concurrency": 2, "gatewayTopology": {"numTrustedProxies": 1, "forwardClientCertDetails": "APPEND_FORWARD"},
		"proxyMetadata": {"A": "1"}, "proxyHeaders": {"forwardedClientCert": "SANITIZE_SET", "xForwardedHost": {"enabled": true}}}`
	for _, tc := range []struct{ annotation, want string }{
		{``, base},
		{`~`, base},
		{`gatewayTopology: null`, base},
		{`gatewayTopology: {numTrustedProxies: 2}`, strings.Replace(base, `"numTrustedProxies": 1, "forwardClientCertDetails": "APPEND_FORWARD"`, `"numTrustedProxies": 2`, 1)},
		{`{"gatewayTopology": {"forwardClientCertDetails": "SANITIZE"}}`, strings.Replace(base, `"numTrustedProxies": 1, "forwardClientCertDetails": "APPEND_FORWARD"`, `"forwardClientCertDetails": "SANITIZE"`, 1)},
		{`gatewayTopology: {}`, strings.Replace(base, `"numTrustedProxies": 1, "forwardClientCertDetails": "APPEND_FORWARD"`, ``, 1)},
		{`gateway_topology: {num_trusted_proxies: 0}`, strings.Replace(base, `"numTrustedProxies": 1, "forwardClientCertDetails": "APPEND_FORWARD"`, ``, 1)},
		{`proxyMetadata: {B: "2"}`, strings.Replace(base, `"A": "1"`, `"A": "1", "B": "2"`, 1)},
		{`proxyMetadata: {A: "3"}`, strings.Replace(base, `"A": "1"`, `"A": "3"`, 1)},
		{`proxyHeaders: {forwardedClientCert: SANITIZE}`, strings.Replace(base, `"SANITIZE_SET", "xForwardedHost": {"enabled": true}`, `"SANITIZE"`, 1)},
		{`proxyHeaders: {xForwardedHost: {enabled: false}}`, strings.Replace(base, `true`, `false`, 1)},
		{`concurrency: 0`, strings.Replace(base, `"concurrency": 2`, `"concurrency": 0`, 1)},
	} {
		before, want := &meshv1.ProxyConfig{}, &meshv1.ProxyConfig{}
		for text, m := range map[string]*meshv1.ProxyConfig{base: before, tc.want: want} {
			if err := protojson.Unmarshal([]byte(text), m); err != nil {
				t.Fatal(err)
			}
		}
		if tc.want == base {
			want = proto.Clone(before).(*meshv1.ProxyConfig)
		}
		kept := proto.Clone(before)
		got, err := MergeProxyConfig(before, tc.annotation)
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", tc.annotation, got, err, want)
		}
		if !proto.Equal(before, kept) {
			t.Errorf("%s changes what it is merged with", tc.annotation)
		}
	}
	for _, bad := range []string{`gatewayTopology: {numTrustedProxies: two}`, `gatewayTopology: {forwardClientCertDetails: NOPE}`, `[1]`, `a: b: c`, `bogus: 1`} {
		if got, err := MergeProxyConfig(nil, bad); err == nil {
			t.Errorf("%s: %v", bad, got)
		}
	}
	if got, err := MergeProxyConfig(nil, `gatewayTopology: {numTrustedProxies: 2}`); err != nil || got.GetGatewayTopology().GetNumTrustedProxies() != 2 {
		t.Errorf("on nothing: %v %v", got, err)
	}
}

// What a pod says of its proxy is named with its line where it has no effect,
// and refuses the workload where it cannot be read.
func TestProxyConfigAnnotation(t *testing.T) {
	const head = "apiVersion: apps/v1\nkind: %K\nmetadata: {name: edge}\nspec:\n  template:\n    metadata:\n      annotations:\n"
	for _, tc := range []struct {
		name, annotations string
		want              []string // problems
		refused           bool
	}{
		{"gateway", "        inject.istio.io/templates: gateway\n        proxy.istio.io/config: '{\"gatewayTopology\": {\"numTrustedProxies\": 2, \"forwardClientCertDetails\": \"SANITIZE_SET\"}}'\n", nil, false},
		{"sidecar", "        proxy.istio.io/config: |\n          proxyHeaders: {forwardedClientCert: SANITIZE, xForwardedHost: {enabled: true}}\n          proxyMetadata:\n            ISTIO_META_DNS_CAPTURE: \"false\"\n", nil, false},
		{"not supported", "        proxy.istio.io/config: |\n          concurrency: 2\n          tracing:\n            sampling: 10\n          proxyMetadata:\n            A: b\n          gatewayTopology: null\n",
			[]string{"f.yaml:9: Deployment", "concurrency: not supported yet", "f.yaml:13: Deployment", "proxyMetadata.A: not supported yet", "f.yaml:10: Deployment", "tracing: not supported yet"}, false},
		{"topology of a sidecar", "        proxy.istio.io/config: 'gatewayTopology: {numTrustedProxies: 2}'\n", []string{"f.yaml:8: Deployment", "at gateways only"}, false},
		{"a sidecar's at a gateway", "        inject.istio.io/templates: sidecar,gateway\n        proxy.istio.io/config: 'proxyHeaders: {forwardedClientCert: SANITIZE}'\n", []string{"f.yaml:9: Deployment", "no effect at a gateway"}, false},
		{"unknown", "        proxy.istio.io/config: |\n          gatewayTopology:\n            numTrustedProxy: 2\n", []string{"f.yaml:10: Deployment", "unknown field", "numTrustedProxies"}, true},
		{"no number", "        proxy.istio.io/config: 'gatewayTopology: {numTrustedProxies: -1}'\n", []string{"f.yaml:8: Deployment"}, true},
		{"no YAML", "        proxy.istio.io/config: '{'\n", []string{"f.yaml:8: Deployment"}, true},
	} {
		for _, kind := range []string{"Deployment", "StatefulSet", "Job"} {
			text := strings.Replace(head, "%K", kind, 1) + tc.annotations
			if kind == "Job" {
				text = strings.Replace(text, "apps/v1", "batch/v1", 1)
			}
			set, problems := Parse([]File{{Name: "f.yaml", Data: []byte(text)}})
			var said []string
			for _, p := range problems {
				said = append(said, p.String())
			}
			all := strings.Join(said, "\n")
			for _, want := range tc.want {
				if want = strings.Replace(want, "Deployment", kind, 1); !strings.Contains(all, want) {
					t.Errorf("%s, %s: %q is not in:\n%s", kind, tc.name, want, all)
				}
			}
			if len(tc.want) == 0 && all != "" {
				t.Errorf("%s, %s: %s", kind, tc.name, all)
			}
			if n := len(set.Deployments) + len(set.StatefulSets) + len(set.Jobs); (n == 0) != tc.refused {
				t.Errorf("%s, %s: %d workloads", kind, tc.name, n)
			}
		}
	}
}
