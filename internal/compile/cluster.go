package compile

import (
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
)

const (
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
		Name: name, Type: ir.EDS, LB: ir.LeastRequest, Breaker: ir.DefaultBreaker(),
		ConnectTimeout: dur(b.mesh.ConnectTimeout, ir.Duration(10*time.Second)),
		Service:        ir.ServiceRef{Host: s.host, Name: s.Name, Namespace: s.Namespace, Port: port.number, Subset: subsetName},
		Origin:         s.Origin(),
	}
	if s.headless {
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
	if c.Type == ir.EDS {
		b.out.Endpoints = append(b.out.Endpoints, b.endpoints(c, s, port, labels, p.lb))
	}
	return name
}

// endpoints lists a service port's instances that carry the subset's labels.
func (b *builder) endpoints(c *ir.Cluster, s *service, port *servicePort, labels map[string]string, lb *networking.LoadBalancerSettings) *ir.EndpointSet {
	var list []placed
	for _, w := range s.instances {
		number := port.portOn(w)
		if number == 0 || !w.Address.IsValid() || !subset(labels, w.Labels) {
			continue
		}
		e := &ir.Endpoint{Address: joinHostPort(w.Address.String(), number), TLS: w.Sidecar, Locality: w.Locality, Workload: b.workloadRef(w)}
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

// addSpecial adds the clusters every proxy has.
func (b *builder) addSpecial() {
	b.out.Clusters = append(b.out.Clusters,
		&ir.Cluster{Name: ir.BlackHoleCluster, Type: ir.Static, Breaker: ir.DefaultBreaker(), Service: ir.ServiceRef{Name: ir.BlackHoleCluster}},
		&ir.Cluster{Name: ir.PassthroughCluster, Type: ir.OriginalDst, LB: ir.ClusterProvided, Breaker: ir.DefaultBreaker(), TCPKeepalive: b.keepalive(nil),
			ConnectTimeout: dur(b.mesh.ConnectTimeout, ir.Duration(10*time.Second)), Service: ir.ServiceRef{Name: ir.PassthroughCluster}},
	)
}
