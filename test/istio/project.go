package istio

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// projection is a configuration as one value per path, such as
// "cluster[outbound|80||a].connect_timeout" → "10s". Everything that either
// side says is in it; what does not count is taken out by name (normal.go), so
// a field that nobody thought of shows up as a difference.
type projection map[string]string

func project(e *envoy) projection {
	p := projection{}
	for _, c := range e.clusters {
		p.message("cluster["+c.Name+"]", c)
	}
	for _, l := range e.listeners {
		if allocated(socket(l.Address)) {
			continue
		}
		p.message("listener["+socket(l.Address)+"]", l)
	}
	for _, r := range e.routes {
		p.message("routes["+r.Name+"]", r)
	}
	for _, a := range e.endpoints {
		p.message("endpoints["+a.ClusterName+"]", a)
	}
	short := make(projection, len(p))
	for k, v := range p {
		short[shorten.Replace(k)] = v
	}
	return short
}

func socket(a *corepb.Address) string {
	if s := a.GetSocketAddress(); s != nil {
		return fmt.Sprintf("%s:%d", s.Address, s.GetPortValue())
	}
	return a.GetPipe().GetPath()
}

// message writes every set field of m below path.
func (p projection) message(path string, m proto.Message) {
	m = normalized(m)
	switch m := m.(type) {
	case *anypb.Any:
		inner, err := m.UnmarshalNew()
		if err != nil {
			p[path+".@type"] = m.TypeUrl
			return
		}
		p.message(path, inner)
		return
	case *durationpb.Duration:
		p[path] = m.AsDuration().String()
		return
	case *hcmpb.HttpConnectionManager:
		if t := m.GetRouteConfig(); t != nil { // Istio writes inbound tables inline
			p.message("routes["+t.Name+"]", t)
			m.RouteSpecifier = &hcmpb.HttpConnectionManager_Rds{Rds: &hcmpb.Rds{RouteConfigName: t.Name}}
		}
	case *structpb.Struct:
		b, _ := m.MarshalJSON() // plain data: cannot fail
		p[path] = string(b)
		return
	}
	r := m.ProtoReflect()
	if d := r.Descriptor(); d.FullName().Parent() == "google.protobuf" && d.Fields().ByName("value") != nil && d.Fields().Len() == 1 {
		p[path] = scalar(d.Fields().ByName("value"), r.Get(d.Fields().ByName("value"))) // a wrapper
		return
	}
	empty := true
	r.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		empty = false
		if _, skip := notCompared[string(fd.FullName())]; skip {
			return true
		}
		sub := path + "." + string(fd.Name())
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				p.value(fmt.Sprintf("%s[%s]", sub, k), fd.MapValue(), v)
				return true
			})
		case fd.IsList():
			p.list(sub, fd, v.List())
		default:
			p.value(sub, fd, v)
		}
		return true
	})
	if empty {
		p[path] = "{}"
	}
}

func (p projection) value(path string, fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	if fd.Message() != nil {
		p.message(path, v.Message().Interface())
		return
	}
	p[path] = scalar(fd, v)
}

func scalar(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if e := fd.Enum(); e != nil {
		if ev := e.Values().ByNumber(v.Enum()); ev != nil {
			return string(ev.Name())
		}
	}
	return v.String()
}

// list writes a list: values as one line, messages by a key that does not
// depend on their place unless the place decides (routes).
func (p projection) list(path string, fd protoreflect.FieldDescriptor, l protoreflect.List) {
	if fd.Message() == nil {
		var values []string
		for i := range l.Len() {
			if v := scalar(fd, l.Get(i)); !allocated(v) {
				values = append(values, v)
			}
		}
		if unordered[string(fd.FullName())] {
			sort.Strings(values)
			values = slices.Compact(values)
		}
		p[path] = strings.Join(values, ", ")
		return
	}
	used := map[string]int{}
	for i := range l.Len() {
		m := l.Get(i).Message().Interface()
		key := listKey(fd, m)
		if key == "" {
			key = fmt.Sprint(i)
		} else if used[key]++; used[key] > 1 {
			key = fmt.Sprintf("%s#%d", key, used[key])
		}
		p.message(path+"["+key+"]", m)
	}
}

// allocated reports whether a domain or address is one that was given to a
// ServiceEntry without addresses. Istio's allocation is a controller of its
// own, which does not run here.
func allocated(v string) bool {
	return strings.HasPrefix(v, "240.240.") || strings.HasPrefix(v, "[2001:2::")
}

// unordered are value lists whose order means nothing.
var unordered = map[string]bool{
	"envoy.config.route.v3.VirtualHost.domains":                       true,
	"envoy.config.listener.v3.FilterChainMatch.server_names":          true,
	"envoy.config.listener.v3.FilterChainMatch.application_protocols": true,
	"envoy.config.route.v3.Route.request_headers_to_remove":           true,
	"envoy.config.route.v3.Route.response_headers_to_remove":          true,
}

// listKey names an element of a list; "" for its place.
func listKey(fd protoreflect.FieldDescriptor, m proto.Message) string {
	switch m := m.(type) {
	case *listenerpb.FilterChain:
		return chainKey(m.FilterChainMatch)
	case *listenerpb.Filter:
		return m.Name
	case *endpointpb.LocalityLbEndpoints:
		return strings.Trim(m.Locality.GetRegion()+"/"+m.Locality.GetZone()+"/"+m.Locality.GetSubZone(), "/") + "@" + fmt.Sprint(m.Priority)
	case *endpointpb.LbEndpoint:
		return socket(m.GetEndpoint().GetAddress())
	}
	switch fd.FullName() {
	case "envoy.config.route.v3.VirtualHost.routes":
		return ""
	}
	r := m.ProtoReflect()
	for _, field := range []protoreflect.Name{"name", "key"} {
		if f := r.Descriptor().Fields().ByName(field); f != nil && f.Kind() == protoreflect.StringKind {
			return r.Get(f).String()
		}
	}
	return ""
}

// chainKey is a filter chain's match in words: the chains' own names say
// nothing about which connections they take.
func chainKey(m *listenerpb.FilterChainMatch) string {
	if m == nil {
		return "any"
	}
	var parts []string
	add := func(word string, values ...string) {
		if len(values) > 0 && values[0] != "" {
			sort.Strings(values)
			parts = append(parts, word+" "+strings.Join(values, ","))
		}
	}
	if p := m.GetDestinationPort().GetValue(); p != 0 {
		add("port", fmt.Sprint(p))
	}
	var ranges []string
	for _, r := range m.PrefixRanges {
		ranges = append(ranges, fmt.Sprintf("%s/%d", r.AddressPrefix, r.GetPrefixLen().GetValue()))
	}
	add("to", ranges...)
	if len(m.ServerNames) == 0 { // only TLS has a server name
		add("transport", m.TransportProtocol)
	}
	add("sni", slices.Clone(m.ServerNames)...)
	// Tulle takes HTTP/1.0 for HTTP; Istio does so only with a feature flag.
	add("alpn", slices.DeleteFunc(slices.Clone(m.ApplicationProtocols), func(p string) bool { return p == "http/1.0" })...)
	if len(parts) == 0 {
		return "any"
	}
	return strings.Join(parts, "; ")
}

// reached leaves out clusters (and their endpoints) that no listener and no
// route leads to: Istio sends every cluster a proxy might see, Tulle those it
// needs.
func reached(p projection) projection {
	used := map[string]bool{}
	for path, v := range p {
		if v == "BlackHoleCluster" { // every proxy has it, and it never has an endpoint
			continue
		}
		if strings.HasPrefix(path, "cluster[") || strings.HasPrefix(path, "endpoints[") {
			continue
		}
		used[v] = true // a value that happens to be a cluster's name only keeps more
		if _, rest, ok := strings.Cut(path, ".clusters["); ok {
			name, _, _ := strings.Cut(rest, "]")
			used[name] = true
		}
	}
	for path := range p {
		if cluster, ok := strings.CutPrefix(path, "endpoints["); ok && strings.HasSuffix(path, "[envoy.transport_socket_match]") {
			// What an endpoint can do matters only where the cluster asks.
			cluster, _, _ = strings.Cut(cluster, "]")
			if _, asks := p["cluster["+cluster+"].transport_socket_matches[tlsMode-istio].name"]; !asks {
				delete(p, path)
				continue
			}
		}
		for _, kind := range []string{"cluster[", "endpoints["} {
			if rest, ok := strings.CutPrefix(path, kind); ok {
				if name, _, _ := strings.Cut(rest, "]"); !used[name] {
					delete(p, path)
				}
			}
		}
	}
	return p
}
