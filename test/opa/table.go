// Package opa puts the same policy and the same requests to a real OPA server,
// to our ext_authz server and to the engine in the sidecar.
package opa

import (
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
)

// question is one request to ResearchFlow's API and what its policy says.
type question struct {
	method, path string
	token        string // of tokens; "" sends none
	kind, body   string
	truncated    bool
	want         bool
	refused      bool // with 400: it cannot be read
}

// questions is ResearchFlow's table: roles × methods × paths, and what is
// wrong with tokens, bodies and paths.
func questions() []question {
	var out []question
	grants := map[string]string{"viewer": "GET HEAD", "researcher": "GET HEAD POST PUT PATCH", "admin": "GET HEAD POST PUT PATCH DELETE", "guest": "", "nobody": ""}
	for _, role := range []string{"viewer", "researcher", "admin", "guest", "nobody"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			may := strings.Contains(" "+grants[role]+" ", " "+method+" ")
			for _, path := range []string{"/api/jobs", "/api/jobs/1?verbose=1", "/api/administrators"} {
				out = append(out, question{method: method, path: path, token: role, want: may})
			}
			for _, path := range []string{"/api/admin", "/api/admin/stats"} {
				out = append(out, question{method: method, path: path, token: role, want: may && role == "admin"})
			}
			out = append(out, question{method: method, path: "/secrets", token: role}, question{method: method, path: "/api", token: role})
		}
		known := role == "viewer" || role == "researcher" || role == "admin"
		for _, q := range []question{
			{body: `{"query": "{ jobs { id } }"}`, want: known},
			{body: `{"query": "mutation { createJob { id } }"}`, want: role == "researcher" || role == "admin"},
			{body: `{"query": "MUTATION { createJob { id } }"}`, want: role == "researcher" || role == "admin"},
			{body: `{"query": 7}`, want: role == "researcher" || role == "admin"},
			{body: `{"query": "{ jobs`, truncated: true, want: role == "researcher" || role == "admin"},
			{body: `{"query": "{ jobs`, refused: true},
			{body: "", want: role == "researcher" || role == "admin"},
		} {
			q.method, q.path, q.token, q.kind = "POST", "/graphql", role, "application/json"
			out = append(out, q)
		}
	}
	for _, token := range []string{"expired", "not yet", "endless", "other issuer", "other audience", "other key", "unsigned", "tampered", "no token at all"} {
		out = append(out, question{method: "GET", path: "/api/jobs", token: token})
	}
	return append(out, question{method: "GET", path: "/api/%zz", token: "admin", refused: true}, question{method: "GET", path: "/api/a%2Fb", token: "viewer", want: true})
}

// external is the request as a proxy knows it.
func (q *question) external(tokens map[string]string) *authz.External {
	fields := [][2]string{{"accept", "*/*"}, {"user-agent", "table"}}
	if t := tokens[q.token]; t != "" {
		fields = append(fields, [2]string{"authorization", "Bearer " + t})
	}
	if q.kind != "" {
		fields = append(fields, [2]string{"content-type", q.kind})
	}
	return &authz.External{Provider: "table", HTTP: true, ID: "1", Method: q.method, Path: q.path, Host: "localhost", Scheme: "http", Protocol: "HTTP/1.1", Time: time.Now(),
		SourceAddress: netip.MustParseAddrPort("10.244.0.7:40000"), DestinationAddress: netip.MustParseAddrPort("10.244.0.8:3001"),
		SourcePrincipal: "spiffe://cluster.local/ns/istio-system/sa/gateway", DestinationPrincipal: "spiffe://cluster.local/ns/researchflow/sa/orchestrator",
		Body: []byte(q.body), BodyTruncated: q.truncated,
		Headers: func(yield func(name, value string) bool) {
			for _, f := range fields {
				if !yield(f[0], f[1]) {
					return
				}
			}
		}}
}
