package resource

import (
	"fmt"
	"strings"
	"testing"
	"time"

	meshv1 "istio.io/api/mesh/v1alpha1"
)

func parse(text string) (*Set, []Problem) {
	return Parse([]File{{Name: "f.yaml", Data: []byte(text)}})
}

func virtualService(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n" + spec
}

func policy(spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n" + spec
}

const route = "    route: [{destination: {host: a}}]\n"

// Every problem is given as users read it, with its line.
func TestProblems(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"bad YAML", "a: b\n  c: [", "error: f.yaml:2: File: not valid YAML"},
		{"bad YAML in the second document", "kind: X\napiVersion: v1\nmetadata: {name: x}\n---\na: b\nc: {\n", "error: f.yaml:6: File: not valid YAML"},
		{"not an object", "- a\n", "error: f.yaml:1: File: want an object"},
		{"a key twice", "kind: A\nkind: B\n", `f.yaml:2: File: the key "kind" is given twice`},
		{"merge keys", "a: &a {b: c}\nd: {<<: *a}\n", "merge keys"},
		{"no kind", "metadata: {name: x}\n", "apiVersion and kind are needed"},
		{"no name", "apiVersion: v1\nkind: Service\n", "f.yaml:1: Service: metadata.name: a name is needed"},
		{"unknown kind", "apiVersion: networking.istio.io/v1\nkind: VirtualServices\nmetadata: {name: x}\n", "kind VirtualServices is not known"},
		{"unknown version", "apiVersion: networking.istio.io/v9\nkind: VirtualService\nmetadata: {name: x}\n", `version "v9" of networking.istio.io is not known (known: v1, v1beta1, v1alpha3)`},
		{"refused kind", "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: x}\n", "kind Telemetry is not supported yet"},
		{"unknown field", virtualService("  hosts: [a]\n  http:\n  - match:\n    - url: {prefix: /}\n" + route), "error: f.yaml:8: VirtualService default/v: spec.http[0].match[0].url: unknown field (did you mean uri?)"},
		{"unknown field, nothing near", virtualService("  hosts: [a]\n  zzzzzzzzz: 1\n"), "spec.zzzzzzzzz: unknown field (known: "},
		{"unknown top field", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspecs: {}\n", "f.yaml:4: VirtualService default/v: specs: unknown field (did you mean spec?)"},
		{"object for a list", virtualService("  hosts: a\n"), `f.yaml:5: VirtualService default/v: spec.hosts: want a list, have "a"`},
		{"list for an object", virtualService("  hosts: [a]\n  http:\n  - match:\n    - headers: [x]\n" + route), "f.yaml:8: VirtualService default/v: spec.http[0].match[0].headers: want an object, have a list"},
		{"number for a string", virtualService("  hosts: [1]\n"), `spec.hosts[0]: want a string, have the number 1 (put it in quotes: "1")`},
		{"string for a number", virtualService("  hosts: [a]\n  http:\n  - route:\n    - {destination: {host: a}, weight: ten}\n"), `f.yaml:8: VirtualService default/v: spec.http[0].route[0].weight: want a whole number, have "ten"`},
		{"negative port", virtualService("  hosts: [a]\n  http:\n  - route: [{destination: {host: a, port: {number: -1}}}]\n"), "port.number: may not be negative"},
		{"two of a oneof", virtualService("  hosts: [a]\n  http:\n  - match: [{uri: {exact: /a, prefix: /b}}]\n" + route), "spec.http[0].match[0].uri.prefix: only one of exact and prefix may be set"},
		{"bad duration", virtualService("  hosts: [a]\n  http:\n  - timeout: soon\n" + route), `f.yaml:7: VirtualService default/v: spec.http[0].timeout: "soon" is not a duration`},
		{"duration without a unit", virtualService("  hosts: [a]\n  http:\n  - timeout: 5\n" + route), "spec.http[0].timeout: want a duration, have the number 5"},
		{"negative duration", virtualService("  hosts: [a]\n  http:\n  - timeout: -5s\n" + route), "a duration may not be negative"},
		{"enum unlike any", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: ON}}\n", `"ON" is not one of UNSET, DISABLE, PERMISSIVE, STRICT`},
		{"retry condition unlike any", virtualService("  hosts: [a]\n  http:\n  - retries: {attempts: 1, retryOn: foo}\n" + route), `"foo" is not a retry condition (known: 5xx, `},
		{"bad enum", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRIKT}}\n", `spec.mtls.mode: "STRIKT" is not one of UNSET, DISABLE, PERMISSIVE, STRICT (did you mean STRICT?)`},
		{"enum number out of range", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: 7}}\n", `spec.mtls.mode: "7" is not one of`},
		{"no hosts, no http", virtualService("  gateways: [g]\n"), "at least one host"},
		{"no routes", virtualService("  hosts: [a]\n"), "one of http, tls and tcp is needed"},
		{"bad host", virtualService("  hosts: [\"a b\"]\n  http:\n  -\n" + route), `spec.hosts[0]: "a b" is not a host name`},
		{"wildcard in the middle", virtualService("  hosts: [a.*.c]\n  http:\n  -\n" + route), `"a.*.c" is not a host name`},
		{"two actions", virtualService("  hosts: [a]\n  http:\n  - redirect: {uri: /}\n" + route), "spec.http[0]: exactly one of route, redirect, directResponse and delegate"},
		{"redirect with rewrite", virtualService("  hosts: [a]\n  http:\n  - redirect: {uri: /}\n    rewrite: {uri: /}\n"), "a redirect cannot be combined with a rewrite"},
		{"bad redirect code", virtualService("  hosts: [a]\n  http:\n  - redirect: {uri: /, redirectCode: 200}\n"), "want 301, 302, 303, 307 or 308"},
		{"bad regex", virtualService("  hosts: [a]\n  http:\n  - match: [{uri: {regex: '('}}]\n" + route), "spec.http[0].match[0].uri.regex: error parsing regexp"},
		{"no weight", virtualService("  hosts: [a]\n  http:\n  - route: [{destination: {host: a}}, {destination: {host: b}}]\n"), "the weights add up to 0"},
		{"retry condition", virtualService("  hosts: [a]\n  http:\n  - retries: {attempts: 1, retryOn: \"5xx,conect-failure\"}\n" + route), `"conect-failure" is not a retry condition (did you mean connect-failure?)`},
		{"retries off with conditions", virtualService("  hosts: [a]\n  http:\n  - retries: {attempts: 0, retryOn: 5xx}\n" + route), "attempts is 0"},
		{"try outlives route", virtualService("  hosts: [a]\n  http:\n  - retries: {attempts: 1, perTryTimeout: 5s}\n    timeout: 2s\n" + route), "warning: f.yaml:7: VirtualService default/v: spec.http[0].retries.perTryTimeout: 5s is longer"},
		{"subset twice", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, subsets: [{name: x}, {name: x}]}\n", `the subset "x" is defined twice`},
		{"hash without key", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {consistentHash: {maglev: {}}}}}\n", `one of httpHeaderName, httpCookie`},
		{"maglev table", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}}}\n", `100 is not a prime`},
		{"ring too large", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 9000000}}}}}\n", `may not be larger than 8388608`},
		{"cookie without name", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {ttl: 1s}}}}}\n", `a name is needed`},
		{"distribute", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 60}}]}}}}\n", `the weights add up to 60, not 100`},
		{"distribute and failover", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}}}}\n", `only one of distribute and failover`},
		{"failover to itself", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}}\n", `from and to are the same region`},
		{"failover without outlier detection", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}}\n", `failover has no effect without outlierDetection`},
		{"zone label", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {zoneAwareLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}}}}\n", `their labels may not be listed`},
		{"warm-up", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {aggression: 1}}}}\n", `a duration of at least 1ms is needed`},
		{"budget", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {retryBudget: {percent: 120}}}\n", `120 is not a percentage`},
		{"tunnel", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {tunnel: {protocol: UDP, targetHost: a, targetPort: 1}}}\n", `is not a tunnel protocol`},
		{"port twice", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]}}\n", `port 80 has two entries`},
		{"error codes", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {outlierDetection: {outlierDetectionHttpErrorCodes: [99]}}}\n", `99 is not a status`},
		{"sweep interval", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {outlierDetection: {interval: 0s}}}\n", `must be at least 1ms`},
		{"both protocols", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {connectionPool: {http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}}}\n", `cannot be combined with h2UpgradePolicy`},
		{"percentage", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}}\n", "101 is not a percentage"},
		{"HTTPS without tls", "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: [\"*\"]}]}\n", "protocol HTTPS needs tls"},
		{"ports without selector", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {portLevelMtls: {80: {mode: STRICT}}}\n", "needs a selector"},
		{"DENY without rules", policy("  action: DENY\n"), "error: f.yaml:4: AuthorizationPolicy shop/p: spec.rules: action DENY without rules does nothing"},
		{"ALLOW nothing", policy("  {}\n"), "warning: f.yaml:4: AuthorizationPolicy shop/p: spec: an ALLOW policy without rules refuses every request"},
		{"provider without CUSTOM", policy("  provider: {name: x}\n  rules: [{}]\n"), "action CUSTOM needs a provider, and only it takes one"},
		{"CUSTOM without provider", policy("  action: CUSTOM\n  rules: [{}]\n"), "action CUSTOM needs a provider"},
		{"CUSTOM on identities (T4)", policy("  action: CUSTOM\n  provider: {name: x}\n  rules: [{from: [{source: {namespaces: [a]}}]}]\n"), "source.namespaces: CUSTOM policies may not match on identities"},
		{"CUSTOM on trust domains (T4)", policy("  action: CUSTOM\n  provider: {name: x}\n  rules: [{from: [{source: {trustDomains: [a]}}]}]\n"), "source.trustDomains: CUSTOM policies may not match on identities"},
		{"CUSTOM when (T4)", policy("  action: CUSTOM\n  provider: {name: x}\n  rules: [{when: [{key: source.principal, values: [a]}]}]\n"), "when[0].key: CUSTOM policies may not match on identities"},
		{"condition key (X10)", policy("  rules: [{when: [{key: \"request.header[x]\", values: [a]}]}]\n"), `"request.header[x]" is not a condition key (did you mean request.headers?)`},
		{"condition port", policy("  rules: [{when: [{key: destination.port, values: [http]}]}]\n"), `when[0].values[0]: "http" is not a port`},
		{"condition block", policy("  rules: [{when: [{key: source.ip, notValues: [\"10.0.0.0/99\"]}]}]\n"), `when[0].notValues[0]: "10.0.0.0/99" is neither an address nor a CIDR block`},
		{"operation port", policy("  rules: [{to: [{operation: {ports: [\"70000\"]}}]}]\n"), `"70000" is not a port`},
		{"principal with its scheme", policy("  rules: [{from: [{source: {principals: [\"spiffe://td/ns/a/sa/b\"]}}]}]\n"), "matches nobody, as in Istio (write principals without spiffe://)"},
		{"empty source", policy("  rules: [{from: [{source: {}}]}]\n"), "a source needs at least one field"},
		{"wildcard label", policy("  selector: {matchLabels: {app: \"*\"}}\n  rules: [{}]\n"), "labels may be neither empty nor wildcards"},
		{"same object twice", virtualService("  hosts: [a]\n  http:\n  -\n"+route) + "---\n" + virtualService("  hosts: [b]\n  http:\n  -\n"+route), "f.yaml:12: VirtualService default/v: metadata.name: the same object is also at f.yaml:1"},
		{"unknown mesh field", mesh("acessLogFile: /dev/stdout"), "error: f.yaml:7: ConfigMap istio-system/istio: data.mesh.acessLogFile: unknown field (did you mean accessLogFile?)"},
		{"Local with both", "apiVersion: tulle.dev/v1alpha1\nkind: Local\nmetadata: {name: l}\nspec: {workloads: {a: {builtin: standin, command: [x]}}}\n", "exactly one of command and builtin"},
		{"too deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), "too deeply nested"},
		{"alias bomb", "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n", "too large or too deeply nested"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, problems := parse(tc.in)
			var all []string
			for _, p := range problems {
				all = append(all, string(p.Severity)+": "+p.String())
			}
			if got := strings.Join(all, "\n"); !strings.Contains(got, tc.want) {
				t.Errorf("want %q in\n%s", tc.want, got)
			}
		})
	}
}

func mesh(lines ...string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    # MeshConfig\n    " + strings.Join(lines, "\n    ") + "\n"
}

// A bad object hurts only itself.
func TestBadObjectHurtsOnlyItself(t *testing.T) {
	good := virtualService("  hosts: [a]\n  http:\n  -\n" + route)
	set, problems := parse("a: [\n---\n" + strings.Replace(good, "name: v", "name: first", 1) + "---\n" + virtualService("  hosts: 5\n") + "---\n" + strings.Replace(good, "name: v", "name: last", 1))
	if len(set.VirtualServices) != 2 || set.VirtualServices[0].Name != "first" || set.VirtualServices[1].Name != "last" {
		t.Errorf("have %d objects: %v", len(set.VirtualServices), problems)
	}
	if got := set.VirtualServices[1].At("spec.http[0].route[0].destination.host").Line; got != 25 {
		t.Errorf("host of the last object is at line %d, want 25", got)
	}
}

// Security objects that cannot be used leave a mark that covers what they
// would have protected, never less.
func TestDenied(t *testing.T) {
	head := func(kind, meta string) string {
		return "apiVersion: security.istio.io/v1\nkind: " + kind + "\nmetadata: {" + meta + "}\n"
	}
	for _, tc := range []struct{ name, in, want string }{
		{"unknown field", head("AuthorizationPolicy", "name: p, namespace: shop") + "spec: {selector: {matchLabels: {app: a}}, rule: []}\n", "AuthorizationPolicy shop/p map[app:a]"},
		{"no namespace", head("AuthorizationPolicy", "name: p") + "spec: {rule: []}\n", "AuthorizationPolicy default/p map[]"},
		{"unknown version, no namespace", "apiVersion: security.istio.io/v9\nkind: AuthorizationPolicy\nmetadata: {name: p}\n", "AuthorizationPolicy default/p map[]"},
		{"wrong group", "apiVersion: secrity.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\n", "PeerAuthentication shop/p map[]"},
		{"misspelt selector", head("PeerAuthentication", "name: p, namespace: shop") + "spec: {selector: {matchLabel: {app: a}}, mtls: {mode: STRICT}}\n", "PeerAuthentication shop/p map[]"},
		{"bad label", head("AuthorizationPolicy", "name: p, namespace: shop") + "spec: {selector: {matchLabels: {app: a, tier: [x]}}, rules: [{}]}\n", "AuthorizationPolicy shop/p map[app:a]"},
		{"wildcard label", head("AuthorizationPolicy", "name: p, namespace: shop") + "spec: {selector: {matchLabels: {app: \"*\"}}, rules: [{}]}\n", "AuthorizationPolicy shop/p map[]"},
		{"labels as a list", head("AuthorizationPolicy", "name: p, namespace: shop") + "spec: {selector: {matchLabels: [app, a]}, rules: [{}]}\n", "AuthorizationPolicy shop/p map[]"},
		{"unknown action", head("AuthorizationPolicy", "name: p, namespace: shop") + "spec: {action: 9, rules: [{}]}\n", "AuthorizationPolicy shop/p map[]"},
		{"no name", head("AuthorizationPolicy", "namespace: shop") + "spec: {}\n", "AuthorizationPolicy shop/ map[]"},
		{"bad metadata", head("AuthorizationPolicy", "name: p, namespace: shop, creationTimestamp: never") + "spec: {}\n", "AuthorizationPolicy shop/p map[]"},
		{"JWT rules", head("RequestAuthentication", "name: p, namespace: shop") + "spec: {jwtRule: []}\n", "RequestAuthentication shop/p map[]"},
		{"good", head("AuthorizationPolicy", "name: p, namespace: shop") + "spec: {rules: [{}]}\n", ""},
		{"no security object", virtualService("  hosts: 5\n"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, problems := parse(tc.in)
			var got []string
			for _, d := range set.Denied {
				got = append(got, fmt.Sprintf("%s %s/%s %v", d.Kind, d.Namespace, d.Name, d.MatchLabels))
			}
			if strings.Join(got, "; ") != tc.want {
				t.Errorf("have %q, want %q; problems %v", got, tc.want, problems)
			}
			if len(set.AuthorizationPolicies)+len(set.PeerAuthentications) > 0 != (tc.name == "good") {
				t.Error("a bad object is in force")
			}
		})
	}
}

func TestPortLevelMtls(t *testing.T) {
	set, problems := parse("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec:\n  selector: {matchLabels: {app: a}}\n  portLevelMtls:\n    8080: {mode: STRICT}\n    \"9090\": {mode: DISABLE}\n")
	if len(problems) > 0 || len(set.PeerAuthentications) != 1 || len(set.PeerAuthentications[0].Spec.PortLevelMtls) != 2 {
		t.Fatalf("have %v, problems %v", set.PeerAuthentications, problems)
	}
}

// What MeshConfig says replaces a default whole, zero values too.
func TestMeshConfig(t *testing.T) {
	set, problems := parse(mesh("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "connectTimeout: 0.5s", "enableTracing: false", "enableAutoMtls: false", "rootNamespace: mesh"))
	if len(problems) > 0 || set.Mesh == nil {
		t.Fatal(problems)
	}
	m := set.Mesh
	if m.OutboundTrafficPolicy.Mode != meshv1.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY || m.ConnectTimeout.AsDuration() != 500*time.Millisecond ||
		m.EnableTracing || m.EnableAutoMtls.GetValue() || m.RootNamespace != "mesh" || m.TrustDomain != "cluster.local" {
		t.Errorf("have %v", m)
	}
	if set, _ := parse(mesh("accessLogFile: /dev/stdout", "connectTimeout: null")); set.Mesh.ConnectTimeout.AsDuration() != 10*time.Second || set.Mesh.OutboundTrafficPolicy.Mode != meshv1.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY {
		t.Errorf("defaults are gone: %v", set.Mesh)
	}
}

// T7: by creationTimestamp, then name, then namespace.
func TestOrder(t *testing.T) {
	var text string
	for _, m := range []string{"name: b, namespace: x", "name: a, namespace: y", "name: z, creationTimestamp: \"2020-01-01T00:00:00Z\"", "name: a, namespace: x", "name: c, creationTimestamp: \"2019-01-01T00:00:00Z\""} {
		text += strings.Replace(virtualService("  hosts: [a]\n  http:\n  -\n"+route), "name: v", m, 1) + "---\n"
	}
	set, problems := parse(text)
	var got []string
	for _, v := range set.VirtualServices {
		got = append(got, v.Namespace+"/"+v.Name)
	}
	if want := "x/a y/a x/b default/c default/z"; strings.Join(got, " ") != want {
		t.Errorf("have %v, want %s; %v", got, want, problems)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "---", "...", "{}", "a: *a", "&a [*a]", "%YAML 1.2\n---\na: b", "\xef\xbb\xbfkind: x", "kind: List\napiVersion: v1\nmetadata: {name: l}\nitems: [1, {kind: x}]",
		mesh("connectTimeout: 1s"), mesh("{"), virtualService("  hosts: [a]\n  http:\n  -\n" + route), policy("  rules: [null, {from: [null], to: [{operation: null}], when: [null]}]\n"),
		"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: [null]}", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a, subsets: [null], trafficPolicy: {portLevelSettings: [null]}}",
		virtualService("  hosts: [a]\n  http: [null, {match: [null], route: [null]}]\n  tcp: [null]\n  tls: [null, {match: [null]}]\n"), "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 1}]}",
		"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec: {hosts: [a], ports: [null], endpoints: [null]}", "apiVersion: tulle.dev/v1alpha1\nkind: Local\nmetadata: {name: l}\nspec: {workloads: {a: null}}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, problems := Parse([]File{{Name: "f", Data: data}})
		if set == nil {
			t.Fatal("no set")
		}
		for _, p := range problems {
			if p.Reason == "" || p.String() == "" {
				t.Errorf("a problem says nothing: %+v", p)
			}
		}
	})
}
