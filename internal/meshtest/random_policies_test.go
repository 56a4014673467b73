package meshtest

import (
	"net/http"
	"strings"
)

// externalAddress is where ext.example serves HTTP, outside the mesh.
const externalAddress = "198.51.100.7"

// policy is an object of the security API.
func (d dice) policy(i int) tree {
	name := string(rune('p' + i))
	switch d.IntN(8) {
	case 0, 1:
		return object("security", "PeerAuthentication", d.namespace(), name, d.peerAuthentication())
	case 2:
		return object("security", "RequestAuthentication", d.namespace(), name, d.selected(tree{"jwtRules": []tree{{"issuer": randomIssuer, "jwks": "$keys(corp)"}}}))
	}
	spec := tree{"action": pick(d, "ALLOW", "ALLOW", "DENY", "DENY", "DENY", "AUDIT")}
	if !d.in(12) {
		spec["rules"] = some(d, 2, d.accessRule)
	}
	return object("security", "AuthorizationPolicy", d.namespace(), name, d.selected(spec))
}

func (d dice) selected(spec tree) tree {
	if d.in(2) {
		spec["selector"] = tree{"matchLabels": pick(d, tree{"app": "worker"}, tree{"version": "v1"}, tree{"app": "stock"}, tree{"istio": "ingressgateway"})}
	}
	return spec
}

func (d dice) peerAuthentication() tree {
	mode := func() tree { return tree{"mode": pick(d, "STRICT", "STRICT", "PERMISSIVE", "DISABLE", "UNSET")} }
	spec := tree{}
	if !d.in(4) {
		spec["mtls"] = mode()
	}
	if d.in(2) {
		spec["selector"] = tree{"matchLabels": tree{"app": pick(d, "worker", "stock")}}
		if d.in(2) {
			spec["portLevelMtls"] = tree{pick(d, "8080", "8081", "8000"): mode()}
		}
	}
	return spec
}

func (d dice) accessRule() tree {
	out := tree{}
	if d.in(2) {
		out["from"] = some(d, 2, func() tree { return tree{"source": d.fields(d.sourceField)} })
	}
	if !d.in(3) {
		out["to"] = some(d, 2, func() tree { return tree{"operation": d.fields(d.operationField)} })
	}
	if d.in(3) {
		out["when"] = some(d, 2, d.condition)
	}
	return out
}

// fields is one or two fields, each as it stands or as its not-twin.
func (d dice) fields(draw func() (string, []string)) tree {
	out := tree{}
	for range 1 + d.IntN(2) {
		name, values := draw()
		if d.in(4) {
			name = "not" + strings.ToUpper(name[:1]) + name[1:]
		}
		out[name] = values
	}
	return out
}

func (d dice) sourceField() (string, []string) {
	values := make([]string, 1+d.IntN(2))
	field := pick(d, "principals", "namespaces", "ipBlocks", "remoteIpBlocks", "requestPrincipals", "serviceAccounts")
	for i := range values {
		switch field {
		case "principals":
			values[i] = pick(d, "*", "cluster.local/ns/shop/sa/web", "*/sa/ops", "cluster.local/ns/shop/*", "cluster.local/ns/istio-system/sa/ingressgateway")
		case "namespaces":
			values[i] = pick(d, "shop", "back", "istio-system", "s*", "*")
		case "ipBlocks", "remoteIpBlocks":
			values[i] = pick(d, "10.244.0.0/16", "10.244.0.3", "203.0.113.0/24", "1.2.3.0/24")
		case "requestPrincipals":
			values[i] = pick(d, "*", randomIssuer+"/alice", randomIssuer+"/bob")
		case "serviceAccounts":
			values[i] = pick(d, "web", "shop/web", "back/ops")
		}
	}
	return field, values
}

func (d dice) operationField() (string, []string) {
	field := pick(d, "hosts", "ports", "methods", "paths", "paths")
	values := make([]string, 1+d.IntN(2))
	for i := range values {
		switch field {
		case "hosts":
			values[i] = pick(d, "worker", "worker:*", "Worker", "worker.shop.svc.cluster.local", "*.example", "stock*", "*:8000")
		case "ports":
			values[i] = pick(d, "8080", "8081", "8000")
		case "methods":
			values[i] = pick(d, "GET", "POST", "P*")
		case "paths":
			values[i] = pick(d, d.path(), d.path(), "/a*", "*b", "*", "/a/{*}", "/{**}", "/b/a")
		}
	}
	return field, values
}

func (d dice) condition() tree {
	key := pick(d, "request.headers[x-user]", "request.headers[X-V]", "request.headers[:path]", "request.headers[:method]", "request.headers[:authority]",
		"request.headers[x-forwarded-proto]", "request.headers[x-envoy-attempt-count]", "request.headers[x-forwarded-client-cert]", "request.headers[x-forwarded-host]", "request.headers[x-envoy-original-path]", "request.headers[content-length]", "request.headers[user-agent]", "request.headers[x-request-id]", "request.headers[x-forwarded-for]",
		"source.ip", "remote.ip", "source.namespace", "source.principal", "source.serviceAccount", "destination.ip", "destination.port", "connection.sni",
		"request.auth.principal", "request.auth.claims[sub]")
	var values []string
	switch {
	case strings.HasSuffix(key, ".ip"):
		values = []string{pick(d, "10.244.0.0/16", "10.244.0.3", "203.0.113.9", "1.2.3.4")}
	case key == "destination.port":
		values = []string{pick(d, "8080", "8081")}
	case key == "source.serviceAccount":
		values = []string{pick(d, "shop/web", "back/ops")}
	case key == "source.namespace":
		values = []string{pick(d, "shop", "back", "istio-system")}
	default:
		values = some(d, 2, func() string {
			return pick(d, "*", "jason", "anna", "a*", "1", "1,2", "/a*", "GET", "http", "worker*", "*.shop.svc.cluster.local", "alice")
		})
	}
	return tree{"key": key, pick(d, "values", "values", "notValues"): values}
}

// question is a request and who makes it.
func (d dice) question() (who string, q *request) {
	who = pick(d, "web", "web", "ops", "legacy", "worker-v1", "outside", "outside")
	q = &request{method: pick(d, "GET", "GET", "GET", "POST", "PUT", "OPTIONS"), header: http.Header{}}
	host := pick(d, "worker.shop", "worker.shop:8000", "worker.shop:8000", "worker.shop.svc.cluster.local:8000", "worker.shop.svc.cluster.local", "stock.back:8000",
		"stock.back.svc.cluster.local:8000", "legacy.shop", "ext.example", "worker.shop:9", "worker.shop:9000", "each.shop:8080", "nobody.shop", "198.51.100.7")
	switch who {
	case "web", "worker-v1", "legacy":
		host = pick(d, host, host, "worker", "worker:8000")
	case "outside":
		host = pick(d, "shop.example", "shop.example", "a.example", "Shop.Example", "worker.example")
	}
	if who == "worker-v1" && strings.HasPrefix(host, "each.") {
		host = "worker:8000" // it may be led to itself, past its sidecar, as the name server likes
	}
	path := pick(d, "/", "/", "/a", "/a/", "/a/b", "/b", "/A/b", "/a/../b", "/a/./b", "/%61", "/a%2Fb", "/a%2fb", "//a", "/a//b", "/aa", "/a/b/", "/x%20y", "/a;b=c")
	q.url = "http://" + host + path + pick(d, "", "", "", "?x=1", "?x=1&y=2", "?y=2&x=2&x=1", "?x", "?", "?x=%31")
	for range d.IntN(4) {
		name := pick(d, "X-User", "X-User", "X-V", "X-Forwarded-For", "X-Forwarded-Proto", "Authorization", "User-Agent", "X-Request-Id", "Origin", "Access-Control-Request-Method", "X-Envoy-Attempt-Count")
		if add := q.header.Add; name == "Authorization" || name == "Origin" || name == "User-Agent" {
			q.header.Set(name, d.value(name))
		} else {
			add(name, d.value(name))
		}
	}
	if d.in(5) {
		q.header["Host"] = []string{pick(d, "worker", "WORKER:8000", "worker.shop.svc.cluster.local.", "stock.back", "other.example", "worker:1", "shop.example:80", "ext.example")}
	}
	return who, q
}

func (d dice) value(name string) string {
	switch name {
	case "X-Forwarded-For":
		return pick(d, "1.2.3.4", "1.2.3.4, 10.244.0.3")
	case "X-Forwarded-Proto":
		return pick(d, "http", "https")
	case "Origin":
		return pick(d, "https://a.example", "https://b.example")
	case "Access-Control-Request-Method":
		return "GET"
	case "Authorization":
		return "Bearer " + pick(d, "$ALICE", "$BOB", "$FORGED", "nonsense")
	}
	return pick(d, "jason", "anna", "1", "2", "")
}
