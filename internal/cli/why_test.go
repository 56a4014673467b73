package cli

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/up"
)

func remembered() map[string]any {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	origin := func(kind, name string, line int) ir.Origin {
		return ir.Origin{Kind: kind, Namespace: "shop", Name: name, File: "in.yaml", Line: line}
	}
	denial := up.Denial{Workload: "api-0", Denial: proxy.Denial{ID: "D1", RequestID: "r1", Time: at, Protocol: "HTTP/1.1", Method: "GET", Host: "api", Path: "/x", Status: 403,
		Details: "rbac_access_denied_matched_policy[none]", Source: netip.MustParseAddrPort("10.0.0.2:4000"), Destination: netip.MustParseAddrPort("10.0.0.1:8080"), Local: "spiffe://a/ns/shop/sa/api"}}
	failure := up.Failure{Workload: "web-0", Failure: proxy.Failure{ID: "F2", RequestID: "r2", Time: at.Add(time.Second), Seconds: 1.5, Protocol: "HTTP/1.1", Method: "POST", Host: "api", Path: "/a'b;c",
		Source: netip.MustParseAddrPort("10.0.0.2:4000"), Destination: netip.MustParseAddrPort("10.96.0.1:80"), Local: "spiffe://a/ns/shop/sa/web", Outbound: true,
		Status: 503, Flags: "UF,URX", Details: "upstream_reset_before_response_started{remote_connection_failure}", Transport: "connection refused", Hint: "the endpoint did not accept the connection",
		Route: "default", Cluster: "outbound|80||api.shop.svc.cluster.local", Upstream: "10.0.0.1:8080", Attempts: 2, Version: "v1",
		Tries: []proxy.FailureTry{{Upstream: "10.0.0.1:8080", Flags: "UF", Seconds: 0.5}, {Upstream: "10.0.0.3:8080", Status: 503, Seconds: 1}},
		Lines: []proxy.FailureLine{{What: "route default", Origin: origin("VirtualService", "api", 4)}, {What: "retries", Origin: origin("VirtualService", "api", 6)}}}}
	connection := up.Failure{Workload: "web-0", Failure: proxy.Failure{ID: "F3", Time: at.Add(-time.Second), Protocol: "TCP", Flags: "UH", Details: "-", Destination: netip.MustParseAddrPort("10.96.0.2:6379")}}
	return map[string]any{"/v1/denials": []up.Denial{denial}, "/v1/failures": []up.Failure{failure, connection}}
}

func TestWhyLists(t *testing.T) {
	standInRun(t, nil, remembered())
	const want = `TIME       WORKLOAD   REQUEST              PRINCIPAL   STATUS       DETAILS                                                             ID
03:04:06   web-0      POST api/a'b;c       -           503 UF,URX   upstream_reset_before_response_started{remote_connection_failure}   r2
03:04:05   api-0      GET api/x            -           403          rbac_access_denied_matched_policy[none]                             D1
03:04:04   web-0      TCP 10.96.0.2:6379   -           UH           -                                                                   F3
`
	if out, errs, code := tulle(t, "why"); code != 0 || out != want {
		t.Errorf("exit %d %s\n%s\nwant\n%s", code, errs, out, want)
	}
	out, _, _ := tulle(t, "why -o json")
	var docs []struct{ ID, RequestID, Flags string }
	if err := json.Unmarshal([]byte(out), &docs); err != nil || len(docs) != 3 || docs[0].Flags != "UF,URX" || docs[1].ID != "D1" {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWhyFailure(t *testing.T) {
	all := remembered()
	all["/v1/denials"], all["/v1/failures"] = []up.Denial{}, all["/v1/failures"].([]up.Failure)[:1]
	standInRun(t, nil, all)
	const want = `failed       POST api/a'b;c at 2026-01-02 03:04:06 by web-0, after 1.5s
answer       503 UF,URX upstream_reset_before_response_started{remote_connection_failure}
             connection refused
look at      the endpoint did not accept the connection
decided by   route default: VirtualService shop/api (in.yaml:4)
decided by   retries: VirtualService shop/api (in.yaml:6)
try 1        10.0.0.1:8080: UF after 500ms
try 2        10.0.0.3:8080: 503 after 1s
cluster      outbound|80||api.shop.svc.cluster.local
caller       its own application from 10.0.0.2:4000
called       10.96.0.1:80, by the proxy of spiffe://a/ns/shop/sa/web
explain      tulle explain --from web-0 --to api:80 --path '/a'\''b;c' -X POST
ids          failure F2, request r2, configuration v1
`
	if out, errs, code := tulle(t, "why r2"); code != 0 || out != want {
		t.Errorf("exit %d %s\n%s\nwant\n%s", code, errs, out, want)
	}
}

func TestWhyNothing(t *testing.T) {
	standInRun(t, nil, map[string]any{"/v1/denials": []up.Denial{}, "/v1/failures": []up.Failure{}})
	if out, _, code := tulle(t, "why"); code != 0 || out != "nothing was refused, and nothing failed in the mesh\n" {
		t.Errorf("exit %d %s", code, out)
	}
	if _, _, code := tulle(t, "why r9"); code != exitNo {
		t.Errorf("exit %d of an unknown id", code)
	}
}
