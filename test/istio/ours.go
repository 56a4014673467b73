package istio

import (
	"fmt"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// envoy is the configuration of one proxy, in Envoy's words.
type envoy struct {
	clusters  []*clusterpb.Cluster
	listeners []*listenerpb.Listener
	routes    []*routepb.RouteConfiguration
	endpoints []*endpointpb.ClusterLoadAssignment
	origins   map[string]string // ours only: path prefix of the projection → where the user wrote it
}

// ours compiles the world and encodes what each proxy is told. It goes through
// the Envoy encoding on purpose: that is what is on the wire. refused are the
// problems a user would be shown as errors.
func ours(w *world) (out map[string]*envoy, refused []resource.Problem, err error) {
	index := compile.Prepare(w.set)
	out = map[string]*envoy{}
	for _, name := range w.nodes {
		i, err := w.workload(name)
		if err != nil {
			return nil, nil, err
		}
		snapshot := index.Snapshot(index.Node(i))
		wire, err := xds.Encode(snapshot)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %s: %w", w.name, name, err)
		}
		e := &envoy{origins: origins(snapshot)}
		if e.clusters, err = unpack(wire, xds.ClusterType, func() *clusterpb.Cluster { return &clusterpb.Cluster{} }); err != nil {
			return nil, nil, err
		}
		if e.listeners, err = unpack(wire, xds.ListenerType, func() *listenerpb.Listener { return &listenerpb.Listener{} }); err != nil {
			return nil, nil, err
		}
		if e.routes, err = unpack(wire, xds.RouteType, func() *routepb.RouteConfiguration { return &routepb.RouteConfiguration{} }); err != nil {
			return nil, nil, err
		}
		if e.endpoints, err = unpack(wire, xds.EndpointType, func() *endpointpb.ClusterLoadAssignment { return &endpointpb.ClusterLoadAssignment{} }); err != nil {
			return nil, nil, err
		}
		out[name] = e
	}
	for _, p := range append(w.problems, index.Problems()...) {
		if p.Severity == resource.Error {
			refused = append(refused, p)
		}
	}
	return out, refused, nil
}

func unpack[M proto.Message](wire *xds.Resources, typeURL string, empty func() M) ([]M, error) {
	var out []M
	for name, r := range wire.ByType[typeURL] {
		m := empty()
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// origins says for the parts of a snapshot where the user wrote them.
func origins(s *ir.Snapshot) map[string]string {
	out := map[string]string{}
	add := func(o ir.Origin, format string, args ...any) {
		if !o.IsZero() {
			out[fmt.Sprintf(format, args...)] = o.String()
		}
	}
	for _, c := range s.Clusters {
		for _, o := range []ir.Origin{c.Origin, c.PolicyFrom, c.SubsetFrom} {
			add(o, "cluster[%s]", c.Name)
		}
	}
	for _, l := range s.Listeners {
		add(l.Origin, "listener[%s]", l.Address)
	}
	for _, t := range s.Routes {
		for _, v := range t.VirtualHosts {
			add(v.Origin, "routes[%s].virtual_hosts[%s]", t.Name, v.Name)
			for i, r := range v.Routes {
				add(r.Origin, "routes[%s].virtual_hosts[%s].routes[%d]", t.Name, v.Name, i)
				add(r.Match.Origin, "routes[%s].virtual_hosts[%s].routes[%d].match", t.Name, v.Name, i)
			}
		}
	}
	return out
}
