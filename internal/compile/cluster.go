package compile

import (
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	defaultDNSRefresh      = ir.Duration(60 * time.Second) // MeshConfig's
	defaultOutlierInterval = ir.Duration(10 * time.Second)
	defaultBaseEjection    = ir.Duration(30 * time.Second)
	defaultMaxEjection     = ir.Duration(300 * time.Second)
)

// addCluster compiles the cluster of a service port (and subset), once.
func (b *builder) addCluster(s *service, port *servicePort, subsetName string) string {
	name := clusterName("outbound", port.number, subsetName, s.host)
	if b.clusters[name] {
		return name
	}
	b.clusters[name] = true
	c := &ir.Cluster{
		Name: name, Type: s.clusterOf, LB: ir.LeastRequest, Breaker: ir.DefaultBreaker(),
		ConnectTimeout: b.connectTimeout(),
		Service:        ir.ServiceRef{Host: s.host, Name: s.shortName(), Namespace: s.Namespace, Port: port.number, Subset: subsetName},
		Origin:         s.Origin(),
	}
	c.HTTP.Protocol = port.protocol.upstreamProtocol()
	if s.headless || c.Type == ir.OriginalDst {
		c.Type, c.LB = ir.OriginalDst, ir.ClusterProvided
	}
	r := b.ruleFor(s, b.node.Namespace)
	sub := r.subset(subsetName)
	p := b.policyFor(r, port.number, sub)
	b.applied[name] = p
	var labels map[string]string
	if r != nil {
		c.PolicyFrom = r.policyFrom.At("spec.trafficPolicy")
	}
	if sub != nil {
		labels = sub.Labels
		c.SubsetFrom = sub.from.At(at("spec.subsets", sub.index))
	}
	b.applyPool(c, p.pool)
	b.applyUpgrade(c, port, p.pool)
	applyBudget(c, p.budget)
	applyOutlier(c, p)
	b.applyLB(c, p.lb)
	b.applyTLS(c, s, port, subsetName, p)
	if p.proxyProtocol != nil {
		b.applyProxyProtocol(c, p)
	}
	b.out.Clusters = append(b.out.Clusters, c)
	switch c.Type {
	case ir.EDS:
		b.out.Endpoints = append(b.out.Endpoints, b.endpoints(c, s, port, labels, p.lb))
	case ir.StrictDNS, ir.LogicalDNS:
		c.DNSRefresh = b.dnsRefresh()
		c.Endpoints = b.endpoints(c, s, port, labels, p.lb)
		c.DNSRefresh = dur(b.mesh.DnsRefreshRate, defaultDNSRefresh) // SE5
	}
	return name
}

// endpoints lists a service port's instances that carry the subset's labels.
func (b *builder) endpoints(c *ir.Cluster, s *service, port *servicePort, labels map[string]string, lb *networking.LoadBalancerSettings) *ir.EndpointSet {
	var list []placed
	for w, number := range s.behind(port) {
		address := endpointAddress(w, number)
		if address == "" || !subset(labels, w.Labels) {
			continue
		}
		e := &ir.Endpoint{Address: address, Weight: w.Weight, TLS: w.Sidecar && b.acceptsTLS(w, number), Locality: w.Locality, Workload: b.workloadRef(w)}
		if !w.Ready {
			e.Health = ir.Unhealthy
		}
		list = append(list, placed{e, w})
	}
	set := &ir.EndpointSet{Cluster: c.Name}
	for _, p := range b.localize(c, lb, list) {
		if !c.LocalityWeighted {
			p.endpoint.LocalityWeight = 0
		}
		set.Endpoints = append(set.Endpoints, *p.endpoint)
	}
	return set
}

// acceptsTLS reports whether an instance's port takes mutual TLS: unlike the
// decision for the whole service, this one knows PeerAuthentication of the
// workload and of the port.
func (x *Index) acceptsTLS(w *resource.Workload, port uint16) bool {
	mode, _ := x.PeerMode(w.Namespace, w.Labels, port)
	return mode != string(modeDisable)
}

// connectTimeout is the mesh's, default 10 s.
func (x *Index) connectTimeout() ir.Duration {
	return dur(x.mesh.ConnectTimeout, ir.Duration(10*time.Second))
}

// dnsRefresh is the mesh's (SE5), default 60 s.
func (x *Index) dnsRefresh() ir.Duration {
	return dur(x.mesh.DnsRefreshRate, ir.Duration(60*time.Second))
}

// passthroughHTTP: connections to destinations nobody declared speak what the
// caller speaks and are kept only briefly (Istio's figure).
func passthroughHTTP() ir.HTTPUpstream {
	idle := ir.Duration(5 * time.Minute)
	return ir.HTTPUpstream{Protocol: ir.DownstreamProtocol, IdleTimeout: &idle}
}

// passthroughCluster makes a cluster of destinations nobody declared. Of the mesh's
// default policy the limits hold for it (DR8); its HTTP settings do not, as in
// Istio.
func (x *Index) passthroughCluster(name string) *ir.Cluster {
	c := &ir.Cluster{Name: name, Type: ir.OriginalDst, LB: ir.ClusterProvided, Breaker: ir.DefaultBreaker(),
		ConnectTimeout: x.connectTimeout(), Service: ir.ServiceRef{Name: name}}
	x.applyPool(c, x.mesh.GetDefaultTrafficPolicy().GetConnectionPool())
	c.HTTP = passthroughHTTP()
	return c
}

// addSpecial adds the clusters every proxy has.
func (b *builder) addSpecial() {
	b.out.Clusters = append(b.out.Clusters,
		&ir.Cluster{Name: ir.BlackHoleCluster, Type: ir.Static, Breaker: ir.DefaultBreaker(), Service: ir.ServiceRef{Name: ir.BlackHoleCluster}},
		b.passthroughCluster(ir.PassthroughCluster),
	)
}
