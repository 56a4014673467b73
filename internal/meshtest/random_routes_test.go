package meshtest

import "math/rand/v2"

// tree is a part of a generated object, as YAML has it. Objects stay trees
// until they are written, so that shrink can take any part away.
type tree = map[string]any

// dice draws what a generated mesh has. The words are few, so that what is
// configured and what is asked for often meet.
type dice struct{ *rand.Rand }

// in reports an event with a chance of one in n.
func (d dice) in(n int) bool { return d.IntN(n) == 0 }

func pick[T any](d dice, of ...T) T { return of[d.IntN(len(of))] }

// some is one to n draws.
func some[T any](d dice, n int, draw func() T) (out []T) {
	for range 1 + d.IntN(n) {
		out = append(out, draw())
	}
	return out
}

func object(api, kind, namespace, name string, spec tree) tree {
	return tree{"apiVersion": api + ".istio.io/v1", "kind": kind, "metadata": tree{"namespace": namespace, "name": name}, "spec": spec}
}

func (d dice) namespace() string { return pick(d, "shop", "shop", "back", "istio-system") }

// host is a destination as configuration in any namespace may write it.
func (d dice) host() string {
	return pick(d, "worker.shop.svc.cluster.local", "worker.shop.svc.cluster.local", "worker", "each.shop.svc.cluster.local", "nobody.shop.svc.cluster.local", "stock.back.svc.cluster.local", "legacy.shop.svc.cluster.local", "ext.example")
}

func (d dice) exportTo(spec tree) tree {
	if d.in(5) {
		spec["exportTo"] = []string{pick(d, ".", "*", "back", "shop")}
	}
	return spec
}

func (d dice) routing(i int) tree {
	name := string(rune('a' + i))
	switch d.IntN(9) {
	case 0, 1, 2, 3:
		return object("networking", "VirtualService", d.namespace(), name, d.virtualService())
	case 4:
		return object("networking", "VirtualService", pick(d, "shop", "back"), "delegate", d.exportTo(tree{"http": some(d, 3, d.rule)}))
	case 5, 6:
		return object("networking", "DestinationRule", d.namespace(), name, d.destinationRule())
	case 7:
		return object("networking", "Sidecar", pick(d, "shop", "back", "istio-system"), name, d.sidecar())
	}
	return object("networking", "ServiceEntry", pick(d, "shop", "back"), name, d.exportTo(tree{
		"hosts": []string{pick(d, "ext.example", "ext.example", "*.example")}, "location": "MESH_EXTERNAL", "resolution": pick(d, "STATIC", "DNS"),
		"ports":     []tree{{"number": 80, "name": pick(d, "http", "http", "tcp"), "protocol": pick(d, "HTTP", "HTTP", "TCP")}},
		"endpoints": []tree{{"address": externalAddress}},
	}))
}

// mesh is a MeshConfig.
func (d dice) mesh() tree {
	text := "accessLogFile: /dev/stdout\npathNormalization: {normalization: " + pick(d, "BASE", "NONE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES") + "}\n"
	if d.in(3) {
		text += "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"
	}
	if d.in(6) {
		text += "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}\n"
	}
	return tree{"apiVersion": "v1", "kind": "ConfigMap", "metadata": tree{"namespace": "istio-system", "name": "istio"}, "data": tree{"mesh": text}}
}

func (d dice) gateway() tree {
	server := tree{"port": tree{"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": []string{pick(d, "*", "*", "shop.example", "*.example", "shop/*", "./*")}}
	if d.in(10) {
		server["tls"] = tree{"httpsRedirect": true}
	}
	return object("networking", "Gateway", "istio-system", "gw", tree{"selector": tree{"istio": "ingressgateway"}, "servers": []tree{server}})
}

func (d dice) virtualService() tree {
	spec := tree{"hosts": some(d, 2, func() string { return pick(d, d.host(), d.host(), "shop.example", "*.example", "*") }), "http": some(d, 4, d.entry)}
	switch d.IntN(4) {
	case 0:
		spec["gateways"] = []string{"istio-system/gw"}
	case 1:
		spec["gateways"] = []string{"mesh", "istio-system/gw"}
	}
	return d.exportTo(spec)
}

// entry is a rule, or leaves the requests to a delegate.
func (d dice) entry() tree {
	if !d.in(6) {
		return d.rule()
	}
	out := tree{"delegate": tree{"name": "delegate", "namespace": pick(d, "shop", "back")}}
	if d.in(2) {
		out["match"] = []tree{{"uri": tree{"prefix": "/a"}}}
	}
	return out
}

func (d dice) rule() tree {
	out := tree{}
	if !d.in(4) {
		out["match"] = some(d, 2, d.match)
	}
	switch d.IntN(8) {
	case 0:
		out["redirect"] = d.redirect()
		return out
	case 1:
		out["directResponse"] = tree{"status": pick(d, 200, 418, 503), "body": tree{"string": "direct"}}
		return out
	}
	route := tree{"destination": d.destination()}
	out["route"] = []tree{route}
	if d.in(4) {
		weight := pick(d, 0, 50, 100)
		other := tree{"destination": d.destination(), "weight": 100 - weight}
		route["weight"] = weight
		out["route"] = []tree{route, other}
	}
	if d.in(4) {
		route["headers"] = d.headerOps()
	}
	if d.in(3) {
		out["headers"] = d.headerOps()
	}
	if d.in(8) {
		out["fault"] = tree{"abort": tree{"httpStatus": 418, "percentage": tree{"value": 100}}}
	}
	if d.in(8) {
		out["corsPolicy"] = tree{"allowOrigins": []tree{d.text("https://a.example", "https://b.example")}, "allowMethods": []string{"GET"}}
	}
	if d.in(3) {
		out["rewrite"] = pick(d, tree{"uri": pick(d, "/", "/a", "/b/")}, tree{"authority": pick(d, "stock", "Worker")},
			tree{"uri": "/a/b", "authority": "worker:8000"}, tree{"uriRegexRewrite": tree{"match": "^/(a+)", "rewrite": `/b/\1`}})
	}
	return out
}

func (d dice) redirect() tree {
	out := tree{pick(d, "uri", "authority", "scheme"): "https"}
	if d.in(3) {
		out = tree{"prefixRewrite": "/b", "authority": "other.example"}
	}
	if d.in(3) {
		out["redirectCode"] = pick(d, 302, 307, 308)
	}
	switch d.IntN(4) {
	case 0:
		out["port"] = 8443
	case 1:
		out["derivePort"] = "FROM_REQUEST_PORT"
	}
	return out
}

func (d dice) destination() tree {
	host := d.host()
	out := tree{"host": host, "port": tree{"number": 80}}
	switch {
	case host == "each.shop.svc.cluster.local":
		out["port"] = tree{"number": 8080}
	case host == "stock.back.svc.cluster.local":
		out["port"] = tree{"number": 8000}
	case host != "ext.example" && d.in(2):
		out["port"] = tree{"number": pick(d, 8000, 8000, 9)}
	}
	if d.in(5) {
		delete(out, "port")
	}
	if d.in(3) {
		out["subset"] = pick(d, "v1", "v2")
	}
	return out
}

func (d dice) headerOps() tree {
	one := func() tree { return tree{pick(d, "x-user", "x-v", "X-V", "host"): pick(d, "anna", "1", "%PROTOCOL%")} }
	out := tree{}
	for _, op := range []string{"set", "add"} {
		if d.in(2) {
			out[op] = one()
		}
	}
	if d.in(3) {
		out["remove"] = []string{pick(d, "x-user", "x-v", "X-User")}
	}
	return tree{"request": out}
}

// text is a StringMatch.
func (d dice) text(words ...string) tree {
	w := pick(d, words...)
	switch d.IntN(4) {
	case 0:
		return tree{"prefix": w[:(len(w)+1)/2]}
	case 1:
		return tree{"regex": pick(d, w, ".*", ".+", "[a-z1]+", w[:1]+".*")}
	}
	return tree{"exact": w}
}

// match is an HTTPMatchRequest: usually one condition, sometimes several.
func (d dice) match() tree {
	out := tree{}
	for range pick(d, 1, 1, 1, 2, 3) {
		switch d.IntN(15) {
		case 0, 1, 2:
			out["uri"] = pick(d, tree{"exact": d.path()}, tree{"prefix": d.path()}, tree{"prefix": "/"}, tree{"regex": pick(d, "/a.*", "/(a|b)/?", "/[a-z]+", ".*")})
		case 3:
			out["uri"], out["ignoreUriCase"] = pick(d, tree{"exact": "/A/B"}, tree{"prefix": "/A"}, tree{"regex": "/A.*"}), true
		case 4:
			out["headers"] = tree{pick(d, "x-user", "x-v", "X-User", "uri"): pick(d, d.text("jason", "anna"), tree{})}
		case 5:
			out["withoutHeaders"] = tree{pick(d, "x-user", "x-v", "host"): pick(d, d.text("jason", "1", "1,2"), tree{})}
		case 6:
			out["queryParams"] = tree{pick(d, "x", "y"): pick(d, d.text("1", "2"), tree{})}
		case 7:
			out["method"] = d.text("GET", "POST", "PUT")
		case 8:
			out["authority"] = d.text("worker", "worker:8000", "worker.shop.svc.cluster.local", "WORKER", "shop.example")
		case 9:
			out["scheme"] = d.text("http", "https", "http")
		case 10:
			out["port"] = pick(d, 80, 8000)
		case 11:
			out["sourceLabels"] = tree{"app": pick(d, "web", "ops", "worker")}
		case 12:
			out["sourceNamespace"] = pick(d, "shop", "back")
		case 13:
			out["gateways"] = pick(d, []string{"mesh"}, []string{"istio-system/gw"}, []string{"mesh", "istio-system/gw"})
		case 14:
			out["headers"] = tree{pick(d, "x-forwarded-proto", "x-request-id", "x-forwarded-for", "user-agent", "x-envoy-attempt-count", ":path"): pick(d, d.text("http", "https"), tree{})}
		}
	}
	return out
}

func (d dice) path() string {
	return pick(d, "/", "/a", "/a/", "/a/b", "/b", "/A", "/a%2Fb")
}

func (d dice) destinationRule() tree {
	policy := func() tree {
		return tree{"tls": tree{"mode": pick(d, "DISABLE", "ISTIO_MUTUAL", "ISTIO_MUTUAL", "SIMPLE")}}
	}
	subset := func(version string) tree {
		out := tree{"name": version, "labels": tree{"version": version}}
		if d.in(3) {
			out["trafficPolicy"] = policy()
		}
		return out
	}
	spec := tree{"host": pick(d, d.host(), d.host(), d.host(), "*.svc.cluster.local"), "subsets": []tree{subset("v1"), subset("v2")}}
	switch d.IntN(4) {
	case 0:
		spec["trafficPolicy"] = policy()
	case 1:
		with := policy()
		with["port"] = tree{"number": pick(d, 80, 8000)}
		spec["trafficPolicy"] = tree{"portLevelSettings": []tree{with}}
	}
	if d.in(5) {
		spec["workloadSelector"] = tree{"matchLabels": tree{"app": pick(d, "web", "ops")}}
	}
	return d.exportTo(spec)
}

func (d dice) sidecar() tree {
	spec := tree{"egress": []tree{{"hosts": some(d, 2, func() string {
		return pick(d, "./*", "back/*", "*/*", "*/worker.shop.svc.cluster.local", "~/*", "*/ext.example", "*/*.example")
	})}}}
	if d.in(2) {
		spec["workloadSelector"] = tree{"labels": tree{"app": pick(d, "web", "ops", "worker")}}
	}
	if d.in(2) {
		spec["outboundTrafficPolicy"] = tree{"mode": pick(d, "REGISTRY_ONLY", "ALLOW_ANY")}
	}
	return spec
}
