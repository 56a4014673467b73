package compile

import (
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	defaultOutlierInterval = ir.Duration(10 * time.Second)
	defaultBaseEjection    = ir.Duration(30 * time.Second)
	defaultMaxEjection     = ir.Duration(300 * time.Second)
)

// rule is the DestinationRule that applies to a service, with what others for
// the same host add to it.
type rule struct {
	*resource.DestinationRule
	policyFrom *resource.DestinationRule // has the top-level trafficPolicy
	subsets    []ruleSubset
}

// ruleSubset is a subset with its place: spec.subsets[index] of from.
type ruleSubset struct {
	*networking.Subset
	from  *resource.DestinationRule
	index int
}

// ruleFor looks a DestinationRule up as Istio does: the client's namespace,
// then the service's, then the root namespace; in each the most specific host,
// and the oldest of equals.
func (x *Index) ruleFor(s *service, client string) *rule {
	for _, ns := range []string{client, s.Namespace, x.rootNamespace()} {
		var best *resource.DestinationRule
		for _, dr := range x.set.DestinationRules {
			if dr.Namespace != ns || !visible(dr.Spec.ExportTo, dr.Namespace, client) || dr.Spec.WorkloadSelector != nil {
				continue
			}
			host := fqdn(dr.Spec.Host, dr.Namespace)
			if hostMatches(host, s.host) && (best == nil || specificity(host) > specificity(fqdn(best.Spec.Host, best.Namespace))) {
				best = dr
			}
		}
		if best != nil {
			return x.merged(best, client)
		}
	}
	return nil
}

// merged adds what other DestinationRules of the namespace say of the same
// host (DR3): their subsets, where the name is new, and their traffic policy if
// there is none yet. Each part keeps its own place.
func (x *Index) merged(first *resource.DestinationRule, client string) *rule {
	r := &rule{DestinationRule: first, policyFrom: first}
	add := func(dr *resource.DestinationRule) {
		for i, s := range dr.Spec.Subsets {
			if r.subset(s.Name) == nil {
				r.subsets = append(r.subsets, ruleSubset{s, dr, i})
			}
		}
		if r.policyFrom.Spec.TrafficPolicy == nil && dr.Spec.TrafficPolicy != nil {
			r.policyFrom = dr
		}
	}
	add(first)
	host := fqdn(first.Spec.Host, first.Namespace)
	for _, dr := range x.set.DestinationRules {
		if dr != first && dr.Namespace == first.Namespace && fqdn(dr.Spec.Host, dr.Namespace) == host && dr.Spec.WorkloadSelector == nil && visible(dr.Spec.ExportTo, dr.Namespace, client) {
			add(dr)
		}
	}
	return r
}

// subset finds a subset by name.
func (r *rule) subset(name string) *ruleSubset {
	if r == nil {
		return nil
	}
	for i := range r.subsets {
		if r.subsets[i].Name == name {
			return &r.subsets[i]
		}
	}
	return nil
}

// policy is a TrafficPolicy after port and subset were resolved, with the
// places that explain names.
type policy struct {
	pool             *networking.ConnectionPoolSettings
	outlier          *networking.OutlierDetection
	lb               *networking.LoadBalancerSettings
	tls              *networking.ClientTLSSettings
	outlierAt, tlsAt ir.Origin
}

// overlay puts the blocks of t, which is at path of dr, over p. A port entry
// replaces the whole policy (DR6): what it does not say is not inherited.
func (p policy) overlay(t *networking.TrafficPolicy, dr *resource.DestinationRule, path string, port uint16) policy {
	if t == nil {
		return p
	}
	for i, pl := range t.PortLevelSettings {
		if pl.GetPort().GetNumber() == uint32(port) {
			sub := at(path+".portLevelSettings", i)
			return policy{pl.ConnectionPool, pl.OutlierDetection, pl.LoadBalancer, pl.Tls, dr.At(sub + ".outlierDetection"), dr.At(sub + ".tls")}
		}
	}
	if t.ConnectionPool != nil {
		p.pool = t.ConnectionPool
	}
	if t.OutlierDetection != nil {
		p.outlier, p.outlierAt = t.OutlierDetection, dr.At(path+".outlierDetection")
	}
	if t.LoadBalancer != nil {
		p.lb = t.LoadBalancer
	}
	if t.Tls != nil {
		p.tls, p.tlsAt = t.Tls, dr.At(path+".tls")
	}
	return p
}

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
	var labels map[string]string
	var p policy
	if r != nil {
		c.PolicyFrom = r.policyFrom.At("spec.trafficPolicy")
		p = p.overlay(r.policyFrom.Spec.TrafficPolicy, r.policyFrom, "spec.trafficPolicy", port.number)
		if sub := r.subset(subsetName); sub != nil {
			labels = sub.Labels
			path := at("spec.subsets", sub.index)
			c.SubsetFrom = sub.from.At(path)
			p = p.overlay(sub.TrafficPolicy, sub.from, path+".trafficPolicy", port.number)
		}
		applyPool(c, p.pool)
		applyOutlier(c, p)
		applyLB(c, p.lb)
	}
	b.applyTLS(c, s, port, subsetName, p)
	b.out.Clusters = append(b.out.Clusters, c)
	switch c.Type {
	case ir.EDS:
		b.out.Endpoints = append(b.out.Endpoints, b.endpoints(name, s, port, labels))
	case ir.StrictDNS, ir.LogicalDNS:
		c.Endpoints = b.endpoints(name, s, port, labels)
	}
	return name
}

// endpoints lists a service port's instances that carry the subset's labels.
func (b *builder) endpoints(cluster string, s *service, port *servicePort, labels map[string]string) *ir.EndpointSet {
	set := &ir.EndpointSet{Cluster: cluster}
	for _, w := range s.instances {
		number := port.portOn(w)
		address := endpointAddress(w, number)
		if address == "" || !subset(labels, w.Labels) {
			continue
		}
		e := ir.Endpoint{Address: address, Weight: w.Weight, TLS: w.Sidecar && b.acceptsTLS(w, number), Locality: w.Locality, Workload: b.workloadRef(w)}
		if !w.Ready {
			e.Health = ir.Unhealthy
		}
		set.Endpoints = append(set.Endpoints, e)
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

// applyPool copies connection pool settings. A number of 0 means "not set", as
// in Istio's protobuf.
func applyPool(c *ir.Cluster, p *networking.ConnectionPoolSettings) {
	limit := func(field *uint32, v int32) {
		if v > 0 {
			*field = uint32(v)
		}
	}
	if t := p.GetTcp(); t != nil {
		limit(&c.Breaker.MaxConnections, t.MaxConnections)
		c.ConnectTimeout = dur(t.ConnectTimeout, c.ConnectTimeout)
		c.HTTP.IdleTimeout = dur(t.IdleTimeout, c.HTTP.IdleTimeout)
		c.HTTP.MaxConnectionDuration = dur(t.MaxConnectionDuration, 0)
		if k := t.TcpKeepalive; k != nil {
			c.TCPKeepalive = &ir.Keepalive{Probes: k.Probes, Time: dur(k.Time, 0), Interval: dur(k.Interval, 0)}
		}
	}
	if h := p.GetHttp(); h != nil {
		limit(&c.Breaker.MaxPendingRequests, h.Http1MaxPendingRequests)
		limit(&c.Breaker.MaxRequests, h.Http2MaxRequests)
		limit(&c.Breaker.MaxRetries, h.MaxRetries)
		limit(&c.HTTP.MaxRequestsPerConn, h.MaxRequestsPerConnection)
		limit(&c.HTTP.MaxConcurrentStreams, h.MaxConcurrentStreams)
		c.HTTP.IdleTimeout = dur(h.IdleTimeout, c.HTTP.IdleTimeout)
		if h.UseClientProtocol {
			c.HTTP.Protocol = ir.DownstreamProtocol
		}
	}
}

func applyOutlier(c *ir.Cluster, p policy) {
	o := p.outlier
	if o == nil {
		return
	}
	out := &ir.Outlier{Consecutive5xx: 5, SplitLocal: o.SplitExternalLocalOriginErrors,
		Interval: dur(o.Interval, defaultOutlierInterval), BaseEjection: dur(o.BaseEjectionTime, defaultBaseEjection), MaxEjection: defaultMaxEjection,
		MaxEjectionPercent: 10, MinHealthPercent: uint32(o.MinHealthPercent)}
	if o.Consecutive_5XxErrors != nil {
		out.Consecutive5xx = o.Consecutive_5XxErrors.Value
	}
	if o.ConsecutiveGatewayErrors != nil {
		out.ConsecutiveGateway = o.ConsecutiveGatewayErrors.Value
	}
	if out.SplitLocal {
		out.ConsecutiveLocal = 5
		if o.ConsecutiveLocalOriginFailures != nil {
			out.ConsecutiveLocal = o.ConsecutiveLocalOriginFailures.Value
		}
	}
	if o.MaxEjectionPercent > 0 {
		out.MaxEjectionPercent = uint32(o.MaxEjectionPercent)
	}
	out.MaxEjection = max(out.MaxEjection, out.BaseEjection) // as Envoy: the cap never shortens the first ejection
	c.Outlier, c.OutlierFrom = out, p.outlierAt
}

func applyLB(c *ir.Cluster, lb *networking.LoadBalancerSettings) {
	if lb == nil || c.Type == ir.OriginalDst {
		return
	}
	switch lb.GetSimple() {
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		c.LB = ir.RoundRobin
	case networking.LoadBalancerSettings_RANDOM:
		c.LB = ir.Random
	case networking.LoadBalancerSettings_PASSTHROUGH:
		c.Type, c.LB = ir.OriginalDst, ir.ClusterProvided
	}
}

// applyTLS decides how connections to the service are protected: an explicit
// tls block wins (DR23), else auto-mTLS for instances that have a sidecar
// (DR22).
func (b *builder) applyTLS(c *ir.Cluster, s *service, port *servicePort, subsetName string, p policy) {
	mutual := &ir.UpstreamTLS{
		Mode: "ISTIO_MUTUAL", Secret: ir.SecretWorkload, ValidationSecret: ir.SecretRootCA, SANs: b.sans(s),
		SNI: "outbound_." + itoa(int(port.number)) + "_." + subsetName + "_." + s.host, ALPN: port.protocol.meshALPN(),
	}
	if p.tls == nil {
		mode, from := b.clientMode(s)
		if !b.mesh.GetEnableAutoMtls().GetValue() || mode == modeDisable || s.external {
			return
		}
		mutual.Origin = from
		if c.Type == ir.OriginalDst {
			for _, w := range s.instances {
				if !w.Sidecar {
					return // the endpoint is not known beforehand: all or none (DR22)
				}
			}
			c.TLS = mutual
			return
		}
		c.AutoTLS = mutual
		return
	}
	mutual.Origin = p.tlsAt
	if p.tls.Mode == networking.ClientTLSSettings_ISTIO_MUTUAL {
		if p.tls.Sni != "" {
			mutual.SNI = p.tls.Sni
		}
		if len(p.tls.SubjectAltNames) > 0 {
			mutual.SANs = nil
			for _, san := range p.tls.SubjectAltNames {
				mutual.SANs = append(mutual.SANs, ir.Match{Kind: ir.Exact, Value: san})
			}
		}
		c.TLS = mutual
		return
	}
	if p.tls.Mode != networking.ClientTLSSettings_DISABLE {
		// Originating other TLS is not supported yet (checkSupport says so).
		// Plaintext instead would betray the user: the cluster gets no endpoint.
		c.Type, c.LB, c.Endpoints = ir.Static, ir.Random, nil
	}
}

// connectTimeout is the mesh's, default 10 s.
func (x *Index) connectTimeout() ir.Duration {
	return dur(x.mesh.ConnectTimeout, ir.Duration(10*time.Second))
}

// passthroughHTTP: connections to destinations nobody declared speak what the
// caller speaks and are kept only briefly (Istio's figure).
var passthroughHTTP = ir.HTTPUpstream{Protocol: "downstream", IdleTimeout: ir.Duration(5 * time.Minute)}

// addSpecial adds the clusters every proxy has.
func (b *builder) addSpecial() {
	b.out.Clusters = append(b.out.Clusters,
		&ir.Cluster{Name: ir.BlackHoleCluster, Type: ir.Static, Breaker: ir.DefaultBreaker(), Service: ir.ServiceRef{Name: ir.BlackHoleCluster}},
		&ir.Cluster{Name: ir.PassthroughCluster, Type: ir.OriginalDst, LB: ir.ClusterProvided, Breaker: ir.DefaultBreaker(),
			ConnectTimeout: b.connectTimeout(), HTTP: passthroughHTTP, Service: ir.ServiceRef{Name: ir.PassthroughCluster}},
	)
}
