package istio

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// generated makes the configuration of a seed: one VirtualService and one
// DestinationRule of a service, and a Gateway with a VirtualService bound to
// it, out of the fields that Tulle supports. The same seed makes the same
// text.
func generated(seed uint64, base resource.File) *world {
	g := &generator{rand.New(rand.NewPCG(seed, 0))}
	var text bytes.Buffer
	text.WriteString("# nodes: client reviews-v1 ingressgateway\n")
	for i, o := range []object{
		g.object("DestinationRule", "reviews", g.destinationRule()),
		g.object("VirtualService", "mesh", object{"hosts": []any{"reviews"}, "http": g.rules()}),
		g.object("Gateway", "edge", object{"selector": object{"istio": "ingressgateway"}, "servers": []any{
			object{"port": object{"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": []any{g.pick("*", "shop.example.com", "*.example.com")}}}}),
		g.object("VirtualService", "outside", object{"hosts": []any{"shop.example.com"}, "gateways": []any{"edge"}, "http": g.rules()}),
	} {
		if i > 0 {
			text.WriteString("---\n")
		}
		b, err := yaml.Marshal(o)
		if err != nil {
			panic(err) // maps of plain values
		}
		text.Write(b)
	}
	name := fmt.Sprintf("seed-%d", seed)
	return newWorld(name, []resource.File{base, {Name: name + ".yaml", Data: text.Bytes()}})
}

type object = map[string]any

type generator struct{ *rand.Rand }

func (g *generator) object(kind, name string, spec object) object {
	return object{"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": object{"name": name, "namespace": "shop"}, "spec": spec}
}

func (g *generator) pick(values ...any) any { return values[g.IntN(len(values))] }

// maybe sets a field one time in n.
func (g *generator) maybe(n int, o object, field string, value func() any) {
	if g.IntN(n) == 0 {
		o[field] = value()
	}
}

func (g *generator) destinationRule() object {
	o := object{"host": "reviews", "subsets": []any{g.subset("v1"), g.subset("v2")}}
	g.maybe(2, o, "trafficPolicy", func() any {
		p := g.policy()
		g.maybe(3, p, "portLevelSettings", func() any {
			port := g.policy()
			port["port"] = object{"number": 8000}
			return []any{port}
		})
		return p
	})
	return o
}

func (g *generator) subset(name string) object {
	o := object{"name": name, "labels": object{"version": name}}
	g.maybe(3, o, "trafficPolicy", func() any { return g.policy() })
	return o
}

func (g *generator) policy() object {
	p := object{}
	g.maybe(2, p, "loadBalancer", func() any { return object{"simple": g.pick("RANDOM", "ROUND_ROBIN", "LEAST_REQUEST")} })
	g.maybe(2, p, "connectionPool", func() any {
		tcp, http := object{"maxConnections": 1 + g.IntN(100)}, object{"http1MaxPendingRequests": 1 + g.IntN(100)}
		g.maybe(2, tcp, "connectTimeout", func() any { return g.seconds() })
		g.maybe(3, tcp, "tcpKeepalive", func() any { return object{"probes": 1 + g.IntN(9), "time": g.seconds()} })
		g.maybe(2, http, "http2MaxRequests", func() any { return 1 + g.IntN(100) })
		g.maybe(2, http, "maxRetries", func() any { return 1 + g.IntN(9) })
		g.maybe(3, http, "maxRequestsPerConnection", func() any { return 1 + g.IntN(9) })
		return object{"tcp": tcp, "http": http}
	})
	g.maybe(2, p, "outlierDetection", func() any {
		o := object{"consecutive5xxErrors": g.IntN(9)}
		g.maybe(2, o, "interval", func() any { return g.seconds() })
		g.maybe(2, o, "baseEjectionTime", func() any { return g.seconds() })
		g.maybe(2, o, "maxEjectionPercent", func() any { return 1 + g.IntN(100) })
		g.maybe(3, o, "minHealthPercent", func() any { return g.IntN(100) })
		return o
	})
	if len(p) == 0 { // Istio refuses an empty policy
		p["loadBalancer"] = object{"simple": "RANDOM"}
	}
	return p
}

func (g *generator) seconds() any { return fmt.Sprintf("%ds", 1+g.IntN(60)) }

// rules are http[]: some with matches, mostly a catch-all at the end.
func (g *generator) rules() []any {
	var out []any
	for i := range 1 + g.IntN(3) {
		r := g.rule()
		r["name"] = fmt.Sprintf("rule-%d", i)
		r["match"] = []any{g.match()}
		if g.IntN(3) == 0 {
			r["match"] = []any{g.match(), g.match()}
		}
		out = append(out, r)
	}
	if g.IntN(4) > 0 {
		out = append(out, g.rule())
	}
	return out
}

func (g *generator) text(prefix string) string { return fmt.Sprintf("%s%d", prefix, g.IntN(9)) }

func (g *generator) stringMatch(prefix string) object {
	return object{g.pick("exact", "prefix", "regex").(string): g.text(prefix)}
}

func (g *generator) match() object {
	m := object{}
	g.maybe(2, m, "uri", func() any { return g.stringMatch("/path") })
	g.maybe(4, m, "ignoreUriCase", func() any { return true })
	g.maybe(4, m, "method", func() any { return object{"exact": g.pick("GET", "POST")} })
	g.maybe(4, m, "scheme", func() any { return object{"exact": "http"} })
	g.maybe(4, m, "authority", func() any { return g.stringMatch("host") })
	g.maybe(3, m, "headers", func() any { return object{g.text("x-a"): g.stringMatch("v"), g.text("x-b"): object{}} })
	g.maybe(4, m, "withoutHeaders", func() any { return object{g.text("x-c"): g.stringMatch("v")} })
	g.maybe(4, m, "queryParams", func() any { return object{g.text("q"): g.stringMatch("v")} })
	if len(m) == 0 {
		m["uri"] = g.stringMatch("/only")
	}
	return m
}

// rule is what one http[] entry does.
func (g *generator) rule() object {
	r := object{}
	switch g.IntN(8) {
	case 0:
		r["redirect"] = object{"uri": g.text("/to"), "redirectCode": g.pick(301, 302, 303, 307, 308)}
		return r
	case 1:
		r["directResponse"] = object{"status": g.pick(200, 404, 503), "body": object{"string": g.text("body")}}
		return r
	}
	r["route"] = g.destinations()
	g.maybe(3, r, "timeout", func() any { return g.seconds() })
	g.maybe(3, r, "retries", func() any {
		o := object{"attempts": g.IntN(5)}
		if o["attempts"] != 0 {
			g.maybe(2, o, "perTryTimeout", func() any { return g.seconds() })
			g.maybe(2, o, "retryOn", func() any {
				return g.pick("5xx", "reset,503", "connect-failure,refused-stream", "gateway-error,429,unavailable")
			})
			g.maybe(3, o, "backoff", func() any { return "50ms" })
		}
		return o
	})
	g.maybe(3, r, "rewrite", func() any { return object{"uri": g.text("/new")} })
	g.maybe(3, r, "headers", g.headers)
	g.maybe(4, r, "fault", func() any {
		return object{"delay": object{"fixedDelay": g.seconds(), "percentage": object{"value": 1 + g.IntN(100)}},
			"abort": object{"httpStatus": g.pick(500, 418), "percentage": object{"value": 1 + g.IntN(100)}}}
	})
	g.maybe(4, r, "mirrors", func() any {
		return []any{object{"destination": object{"host": "ratings", "port": object{"number": 8000}}, "percentage": object{"value": 1 + g.IntN(100)}}}
	})
	g.maybe(4, r, "corsPolicy", func() any {
		return object{"allowOrigins": []any{g.stringMatch("https://origin")}, "allowMethods": []any{"GET"}, "maxAge": g.seconds()}
	})
	return r
}

func (g *generator) headers() any {
	o := object{}
	g.maybe(2, o, "request", func() any { return object{"set": object{g.text("x-s"): "1"}, "remove": []any{g.text("x-r")}} })
	g.maybe(2, o, "response", func() any { return object{"add": object{g.text("x-t"): "2"}} })
	return o
}

func (g *generator) destinations() []any {
	reviews := func(subset string) object { return object{"host": "reviews", "subset": subset} }
	if g.IntN(2) == 0 {
		d := object{"destination": g.pick(object{"host": "reviews"}, reviews("v1"), object{"host": "ratings", "port": object{"number": 9000}})}
		g.maybe(4, d, "headers", g.headers)
		return []any{d}
	}
	share := 1 + g.IntN(99)
	a, b := object{"destination": reviews("v1"), "weight": share}, object{"destination": reviews("v2"), "weight": 100 - share}
	g.maybe(3, a, "headers", g.headers)
	return []any{a, b}
}
