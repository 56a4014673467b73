package xds

import (
	"net"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// encodeEndpoints groups the endpoints by locality and priority, as Envoy wants
// them. Their own order, which grouping loses, rides along.
func encodeEndpoints(e *ir.EndpointSet) (*endpointpb.ClusterLoadAssignment, error) {
	type key struct {
		locality string
		priority uint32
	}
	out := &endpointpb.ClusterLoadAssignment{ClusterName: e.Cluster}
	groups := map[key]*endpointpb.LocalityLbEndpoints{}
	for i := range e.Endpoints {
		ep := &e.Endpoints[i]
		lb, err := encodeEndpoint(ep, i)
		if err != nil {
			return nil, err
		}
		k := key{ep.Locality, ep.Priority}
		g := groups[k]
		if g == nil {
			g = &endpointpb.LocalityLbEndpoints{Priority: ep.Priority, Locality: locality(ep.Locality), LoadBalancingWeight: u32(0)}
			groups[k] = g
			out.Endpoints = append(out.Endpoints, g)
		}
		g.LbEndpoints = append(g.LbEndpoints, lb)
		if ep.LocalityWeight > 0 {
			g.LoadBalancingWeight.Value = ep.LocalityWeight
		} else {
			g.LoadBalancingWeight.Value += max(ep.Weight, 1)
		}
	}
	return out, nil
}

// unweighted takes weights out of a static cluster, which has one endpoint: the
// application.
func unweighted(a *endpointpb.ClusterLoadAssignment) {
	for _, g := range a.Endpoints {
		g.LoadBalancingWeight = nil
		for _, e := range g.LbEndpoints {
			e.LoadBalancingWeight = nil
		}
	}
}

// endpointAddress is "host:port" or "unix:/path".
func endpointAddress(text string) (*core.Address, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: path}}}, nil
	}
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	return address(host, uint16(port)), nil
}

func encodeEndpoint(ep *ir.Endpoint, order int) (*endpointpb.LbEndpoint, error) {
	at, err := endpointAddress(ep.Address)
	if err != nil {
		return nil, err
	}
	meta, err := carry(ordered{ep, order}, ir.Origin{})
	if err != nil {
		return nil, err
	}
	if ep.TLS {
		meta.FilterMetadata["envoy.transport_socket_match"] = tlsMode()
	}
	return &endpointpb.LbEndpoint{
		HostIdentifier:      &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: at}},
		HealthStatus:        map[ir.Health]core.HealthStatus{ir.Unhealthy: core.HealthStatus_UNHEALTHY, ir.Draining: core.HealthStatus_DRAINING}[ep.Health],
		LoadBalancingWeight: u32(max(ep.Weight, 1)), Metadata: meta,
	}, nil
}

// ordered is an endpoint with its place in the set.
type ordered struct {
	*ir.Endpoint
	Order int `json:"order,omitempty"`
}

func locality(s string) *core.Locality {
	if s == "" {
		return nil
	}
	parts := strings.SplitN(s+"//", "/", 4)
	return &core.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}

func decodeEndpoints(body *anypb.Any) (*ir.EndpointSet, error) {
	m := &endpointpb.ClusterLoadAssignment{}
	if err := body.UnmarshalTo(m); err != nil {
		return nil, err
	}
	out := &ir.EndpointSet{Cluster: m.ClusterName}
	total := 0
	for _, g := range m.Endpoints {
		total += len(g.LbEndpoints)
	}
	if total > 0 {
		out.Endpoints = make([]ir.Endpoint, total)
	}
	next := 0
	for _, g := range m.Endpoints {
		for _, e := range g.LbEndpoints {
			ep := ordered{Endpoint: &ir.Endpoint{}}
			if err := carried(e.Metadata, &ep); err != nil {
				return nil, err
			}
			at := ep.Order
			if at < 0 || at >= total || out.Endpoints[at].Address != "" { // not as encodeEndpoints wrote it
				for next < total && out.Endpoints[next].Address != "" {
					next++
				}
				at = next
			}
			out.Endpoints[at] = *ep.Endpoint
		}
	}
	return out, nil
}
