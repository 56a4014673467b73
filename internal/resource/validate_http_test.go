package resource

import (
	"strings"
	"testing"
)

// One rule of a VirtualService, and what is said of it: part of a problem, ""
// for none.
func TestVirtualServiceRules(t *testing.T) {
	const route = "route: [{destination: {host: a}}]"
	for rule, want := range map[string]string{
		"fault: {delay: {fixedDelay: 1s, percentage: {value: 10}}}\n" + route:            "",
		"fault: {delay: {fixedDelay: 1s}}\n" + route:                                     "no percentage: nothing is delayed",
		"fault: {delay: {percentage: {value: 1}}}\n" + route:                             "fixedDelay is needed",
		"fault: {delay: {fixedDelay: 0s, percentage: {value: 1}}}\n" + route:             "want whole milliseconds, at least 1ms",
		"fault: {delay: {exponentialDelay: 1s}}\n" + route:                               "Istio does not implement it",
		"fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}\n" + route:           "101 is not a percentage",
		"fault: {delay: {fixedDelay: 1s, percentage: {value: 0.00001}}}\n" + route:       "finer than 0.0001",
		"fault: {abort: {httpStatus: 600, percentage: {value: 1}}}\n" + route:            "want a status from 200 to 599",
		"fault: {abort: {grpcStatus: UNAVAILBLE, percentage: {value: 1}}}\n" + route:     "did you mean UNAVAILABLE?",
		"fault: {abort: {http2Error: X, percentage: {value: 1}}}\n" + route:              "Istio does not implement it",
		"fault: {abort: {percentage: {value: 1}}}\n" + route:                             "one of httpStatus and grpcStatus is needed",
		"timeout: 0.0005s\n" + route:                                                     "want whole milliseconds, at least 1ms",
		"timeout: 1ms\n" + route:                                                         "",
		"timeout: 0s\n" + route:                                                          "",
		"retries: {attempts: 1, perTryTimeout: 0.5ms}\n" + route:                         "500µs: want whole milliseconds",
		"fault: {}\n" + route:                                                            "a delay or an abort is needed",
		"fault: {abort: {httpStatus: 500, percentage: {value: 1}}}\nredirect: {uri: /x}": "no fault beside a redirect",
		"mirror: {host: b}\nmirrors: [{destination: {host: c}}]\n" + route:               "only one of mirror and mirrors",
		"mirrors: [{percentage: {value: 1}}]\n" + route:                                  "a destination is needed",
		"mirror: {host: b}\nmirrorPercentage: {value: -1}\n" + route:                     "-1 is not a percentage",
		"corsPolicy: {allowOrigins: [{}]}\n" + route:                                     "an origin is needed",
		"corsPolicy: {allowMethods: [FETCH]}\n" + route:                                  `"FETCH" is not a method`,
		"corsPolicy: {maxAge: 1.5s}\n" + route:                                           "want whole seconds",
		"corsPolicy: {exposeHeaders: ['a b']}\n" + route:                                 "is not a header name",
		"redirect: {}":                                                            "is needed",
		"redirect: {uri: /a, prefixRewrite: /b}":                                  "only one of uri and prefixRewrite",
		"redirect: {scheme: ftp}":                                                 "is not http or https",
		"redirect: {uri: /a, redirectCode: 300}":                                  "want 301, 302, 303, 307 or 308",
		"match: [{uri: {exact: /a}}]\nredirect: {prefixRewrite: /b}":              "every uri match must be a prefix",
		"redirect: {derivePort: FROM_REQUEST_PORT}":                               "",
		"directResponse: {status: 100}":                                           "want a status from 200 to 599",
		"rewrite: {}\n" + route:                                                   "one of uri, uriRegexRewrite and authority is needed",
		"rewrite: {uriRegexRewrite: {match: '('}}\n" + route:                      "missing closing )",
		"rewrite: {uri: /a}\ndirectResponse: {status: 200}":                       "cannot be combined with a rewrite",
		"match: [{uri: {prefix: /a}}]\nrewrite: {uri: /}\n" + route:               `the path "/a/x" becomes "//x"`,
		"match: [{uri: {prefix: /a/}}]\nrewrite: {uri: /}\n" + route:              "",
		"headers: {request: {set: {x: '50%'}}}\n" + route:                         "has a single %",
		"headers: {request: {set: {'x y': a}}}\n" + route:                         "is not a header name",
		"headers: {request: {set: {host: a}}}\nrewrite: {authority: b}\n" + route: "the authority is set more than once",
		"headers: {request: {set: {':authority': a}}}\n" + route:                  "",
		"delegate: {namespace: x}":                                                "a name is needed",
		"retries: {attempts: 1, retryOn: '5xx, 503,gateway-eror'}\n" + route:      "did you mean gateway-error?",
		"match: [{withoutHeaders: {a: {regex: '*'}}}]\n" + route:                  "",
		"match: [{headers: {a: {regex: '*'}}}]\n" + route:                         "missing argument to repetition operator",
	} {
		text := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: n}\nspec:\n  hosts: [a]\n  http:\n    - " +
			strings.ReplaceAll(rule, "\n", "\n      ") + "\n"
		expect(t, text, want)
	}
}

func TestVirtualServiceForms(t *testing.T) {
	for spec, want := range map[string]string{
		`hosts: ["*"], http: [{route: [{destination: {host: a}}]}]`:                                                         "not allowed for sidecars",
		`hosts: ["*"], gateways: [g], http: [{route: [{destination: {host: a}}]}]`:                                          "",
		`http: [{route: [{destination: {host: a}}]}]`:                                                                       "",
		`gateways: [g], http: [{route: [{destination: {host: a}}]}]`:                                                        "bound to no gateway",
		`http: [{delegate: {name: d}}]`:                                                                                     "may not delegate again",
		`http: [{match: [{sourceLabels: {a: b}}], route: [{destination: {host: a}}]}]`:                                      "may not select proxies",
		`hosts: [a.example], tls: [{match: [{sniHosts: [a.example]}], route: [{destination: {host: a}}]}]`:                  "",
		`hosts: ["*.example"], tls: [{match: [{sniHosts: [a.example, "*.b.example"]}], route: [{destination: {host: a}}]}]`: "",
		`hosts: [a.example], tls: [{match: [{sniHosts: [b.example]}], route: [{destination: {host: a}}]}]`:                  "not covered by spec.hosts",
		`hosts: [a.example], tls: [{match: [{}], route: [{destination: {host: a}}]}]`:                                       "at least one SNI host",
		`hosts: [a.example], tls: [{route: [{destination: {host: a}}]}]`:                                                    "a match is needed",
		`hosts: [a], tcp: [{match: [{destinationSubnets: [10.0.0.0/33]}], route: [{destination: {host: a}}]}]`:              "is not an address or a CIDR block",
		`hosts: [a], tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: a}}]}]`:                       "Istio does not implement it",
		`hosts: [a], tcp: [{match: [{destinationSubnets: [10.0.0.1, "fd00::/8"]}], route: [{destination: {host: a}}]}]`:     "",
		`hosts: [a], tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]`:                                  "the weights add up to 0",
	} {
		expect(t, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: n}\nspec: {"+spec+"}\n", want)
	}
}

func TestCompatibilityVersionOfLocal(t *testing.T) {
	for v, want := range map[string]string{"latest": "", "1.20": "", "1.21": `"1.21" is not one of latest, 1.20`} {
		expect(t, "apiVersion: tulle.dev/v1alpha1\nkind: Local\nmetadata: {name: l}\nspec: {compatibilityVersion: \""+v+"\"}\n", want)
	}
}

func expect(t *testing.T, text, want string) {
	t.Helper()
	_, problems := Parse([]File{{Name: "in.yaml", Data: []byte(text)}})
	var all []string
	for _, p := range problems {
		all = append(all, p.String())
	}
	got := strings.Join(all, "\n")
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("%s\nsays %q, want %q", text, got, want)
	}
}
