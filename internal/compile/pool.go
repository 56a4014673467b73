package compile

import (
	meshv1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// applyPool copies connection pool settings. A number of 0 means "not set", as
// in Istio's protobuf. It holds for inbound and outbound clusters.
func (x *Index) applyPool(c *ir.Cluster, p *networking.ConnectionPoolSettings) {
	limit := func(field *uint32, v int32) {
		if v > 0 {
			*field = uint32(v)
		}
	}
	tcp, http := p.GetTcp(), p.GetHttp()
	limit(&c.Breaker.MaxConnections, tcp.GetMaxConnections())
	c.ConnectTimeout = dur(tcp.GetConnectTimeout(), c.ConnectTimeout)
	c.HTTP.MaxConnectionDuration = dur(tcp.GetMaxConnectionDuration(), 0)
	c.TCPKeepalive = x.keepalive(tcp.GetTcpKeepalive())
	limit(&c.Breaker.MaxPendingRequests, http.GetHttp1MaxPendingRequests())
	limit(&c.Breaker.MaxRequests, http.GetHttp2MaxRequests())
	limit(&c.Breaker.MaxRetries, http.GetMaxRetries())
	limit(&c.HTTP.MaxRequestsPerConn, http.GetMaxRequestsPerConnection())
	limit(&c.HTTP.MaxConcurrentStreams, http.GetMaxConcurrentStreams())
	idle := http.GetIdleTimeout()
	if idle == nil {
		idle = tcp.GetIdleTimeout()
	}
	if idle != nil {
		d := ir.Duration(idle.AsDuration())
		c.HTTP.IdleTimeout = &d
	}
	if k := http.GetHttp2KeepAlive(); k != nil {
		c.HTTP.HTTP2KeepAlive = &ir.HTTP2KeepAlive{Interval: dur(k.Interval, 0), Timeout: dur(k.Timeout, 0)}
	}
	if http.GetUseClientProtocol() {
		c.HTTP.Protocol = "downstream"
	}
}

// keepalive lays the rule's values over the mesh's; neither: off.
func (x *Index) keepalive(k *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive) *ir.Keepalive {
	base := x.mesh.GetTcpKeepalive()
	if k == nil && base == nil {
		return nil
	}
	out := &ir.Keepalive{Probes: base.GetProbes(), Time: dur(base.GetTime(), 0), Interval: dur(base.GetInterval(), 0)}
	if k.GetProbes() > 0 {
		out.Probes = k.Probes
	}
	out.Time, out.Interval = dur(k.GetTime(), out.Time), dur(k.GetInterval(), out.Interval)
	return out
}

// applyUpgrade makes an outbound cluster HTTP/2 where the rule or the mesh asks
// for it; the mesh's wish holds for ports that are known to be HTTP only.
func (x *Index) applyUpgrade(c *ir.Cluster, port *servicePort, p *networking.ConnectionPoolSettings) {
	switch p.GetHttp().GetH2UpgradePolicy() {
	case networking.ConnectionPoolSettings_HTTPSettings_UPGRADE:
		c.HTTP.Protocol = "http2"
	case networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE:
	default:
		if x.mesh.H2UpgradePolicy == meshv1.MeshConfig_UPGRADE && port.protocol == protoHTTP {
			c.HTTP.Protocol = "http2"
		}
	}
}

// applyProxyProtocol announces the downstream's addresses. An HTTP/2 connection
// is shared by many downstreams, so it cannot.
func (x *Index) applyProxyProtocol(c *ir.Cluster, p policy) {
	if c.HTTP.Protocol != "" {
		x.report(resource.Error, &p.announcer.Meta, p.announcerPath+".proxyProtocol", "cannot be combined with HTTP/2 to the upstream; requests to "+c.Service.Host+" are answered 503 (UH)", "set h2UpgradePolicy: DO_NOT_UPGRADE")
		withoutEndpoints(c)
		return
	}
	c.ProxyProtocol = p.proxyProtocol.Version.String()
}

func applyBudget(c *ir.Cluster, b *networking.TrafficPolicy_RetryBudget) {
	if b == nil {
		return
	}
	c.RetryBudget = &ir.RetryBudget{Percent: 20, MinConcurrency: 3, Interval: dur(b.BudgetInterval, 0)}
	if b.Percent != nil {
		c.RetryBudget.Percent = b.Percent.Value
	}
	if b.MinRetryConcurrency > 0 {
		c.RetryBudget.MinConcurrency = b.MinRetryConcurrency
	}
}

func applyOutlier(c *ir.Cluster, p policy) {
	o := p.outlier
	if o == nil {
		return
	}
	out := &ir.Outlier{Consecutive5xx: 5, SplitLocal: o.SplitExternalLocalOriginErrors,
		Interval: dur(o.Interval, defaultOutlierInterval), BaseEjection: dur(o.BaseEjectionTime, defaultBaseEjection), MaxEjection: defaultMaxEjection,
		MaxEjectionPercent: 10, MinHealthPercent: uint32(o.MinHealthPercent), Codes: o.OutlierDetectionHttpErrorCodes}
	//lint:ignore SA1019 deprecated, and in people's files: then only gateway errors counted
	if old := o.ConsecutiveErrors; old > 0 && o.Consecutive_5XxErrors == nil && o.ConsecutiveGatewayErrors == nil {
		out.Consecutive5xx, out.ConsecutiveGateway = 0, uint32(old)
	}
	if o.Consecutive_5XxErrors != nil {
		out.Consecutive5xx = o.Consecutive_5XxErrors.Value
	}
	if o.ConsecutiveGatewayErrors != nil {
		out.ConsecutiveGateway = o.ConsecutiveGatewayErrors.Value
	}
	if out.SplitLocal {
		out.ConsecutiveLocal = 5
		if n := o.ConsecutiveLocalOriginFailures.GetValue(); n > 0 {
			out.ConsecutiveLocal = n
		}
	}
	if o.MaxEjectionPercent > 0 {
		out.MaxEjectionPercent = uint32(o.MaxEjectionPercent)
	}
	out.MaxEjection = max(out.MaxEjection, out.BaseEjection) // as Envoy: the cap never shortens the first ejection
	c.Outlier, c.OutlierFrom = out, p.outlierAt
}
