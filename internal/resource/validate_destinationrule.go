package resource

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
)

func validateDestinationRule(o *object, dr *networking.DestinationRule) {
	o.host("spec.host", dr.Host)
	o.trafficPolicy("spec.trafficPolicy", dr.TrafficPolicy)
	seen := map[string]bool{}
	for i, s := range dr.Subsets {
		path := FieldPath("spec.subsets", i)
		if s.Name == "" {
			o.fail(path+".name", "a name is needed")
		}
		if seen[s.Name] {
			o.fail(path+".name", fmt.Sprintf("the subset %q is defined twice", s.Name))
		}
		seen[s.Name] = true
		o.trafficPolicy(path+".trafficPolicy", s.TrafficPolicy)
	}
}

func (o *object) trafficPolicy(path string, p *networking.TrafficPolicy) {
	if p == nil {
		return
	}
	o.policyBlocks(path, p.LoadBalancer, p.ConnectionPool, p.OutlierDetection, p.Tls)
	ports := map[uint32]bool{}
	for i, pl := range p.PortLevelSettings {
		sub := FieldPath(path+".portLevelSettings", i)
		switch {
		case pl.Port == nil:
			o.fail(sub+".port", "a port is needed")
		case ports[pl.Port.Number]:
			o.fail(sub+".port", fmt.Sprintf("port %d has two entries", pl.Port.Number))
		default:
			o.portNumber(sub+".port.number", pl.Port.Number)
			ports[pl.Port.Number] = true
		}
		o.policyBlocks(sub, pl.LoadBalancer, pl.ConnectionPool, pl.OutlierDetection, pl.Tls)
	}
	if t := p.Tunnel; t != nil {
		if !slices.Contains([]string{"", "CONNECT", "POST"}, t.Protocol) {
			o.fail(path+".tunnel.protocol", fmt.Sprintf("%q is not a tunnel protocol", t.Protocol), "CONNECT or POST")
		}
		o.host(path+".tunnel.targetHost", t.TargetHost)
		o.portNumber(path+".tunnel.targetPort", t.TargetPort)
	}
	if b := p.RetryBudget; b != nil {
		o.percentage(path+".retryBudget.percent", b.GetPercent().GetValue())
		if b.BudgetInterval != nil && b.BudgetInterval.AsDuration() < 0 {
			o.fail(path+".retryBudget.budgetInterval", "may not be negative")
		}
	}
}

func (o *object) policyBlocks(path string, lb *networking.LoadBalancerSettings, pool *networking.ConnectionPoolSettings, outlier *networking.OutlierDetection, tls *networking.ClientTLSSettings) {
	o.loadBalancer(path+".loadBalancer", lb, outlier != nil)
	o.connectionPool(path+".connectionPool", pool)
	o.outlier(path+".outlierDetection", outlier)
	o.clientTLS(path+".tls", tls)
}

func (o *object) percentage(path string, v float64) {
	if v < 0 || v > 100 {
		o.fail(path, fmt.Sprintf("%g is not a percentage", v))
	}
}

// period checks a duration that must be at least 1 ms where it is set.
func (o *object) period(path string, d *durationpb.Duration) {
	if d != nil && d.AsDuration() < time.Millisecond {
		o.fail(path, "must be at least 1ms")
	}
}

// Limits of consistent hashing (Envoy's).
const (
	maxRingSize    = 8 << 20
	maxMaglevTable = 5000011
)

func (o *object) loadBalancer(path string, lb *networking.LoadBalancerSettings, outlier bool) {
	if lb == nil {
		return
	}
	if h := lb.GetConsistentHash(); h != nil {
		o.consistentHash(path+".consistentHash", h)
	}
	if w := lb.Warmup; w != nil {
		if w.Duration == nil || w.Duration.AsDuration() < time.Millisecond {
			o.fail(path+".warmup.duration", "a duration of at least 1ms is needed")
		}
		o.percentage(path+".warmup.minimumPercent", w.GetMinimumPercent().GetValue())
		if w.Aggression != nil && w.Aggression.Value < 1 {
			o.fail(path+".warmup.aggression", "must be at least 1")
		}
	}
	//lint:ignore SA1019 deprecated, and in people's files
	if (lb.Warmup != nil || lb.WarmupDurationSecs != nil) && (lb.GetConsistentHash() != nil ||
		lb.GetSimple() == networking.LoadBalancerSettings_RANDOM || lb.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH) {
		o.warn(path, "warm-up has an effect with ROUND_ROBIN and LEAST_REQUEST only")
	}
	if lb.LocalityLbSetting != nil && lb.ZoneAwareLbSetting != nil {
		o.fail(path, "only one of localityLbSetting and zoneAwareLbSetting may be set")
	}
	o.locality(path+".localityLbSetting", lb.LocalityLbSetting, outlier)
	if z := lb.ZoneAwareLbSetting; z != nil {
		for i, key := range z.FailoverPriority {
			name, _, _ := strings.Cut(key, "=")
			if slices.Contains([]string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"}, name) {
				o.fail(FieldPath(path+".zoneAwareLbSetting.failoverPriority", i), "regions, zones and subzones are taken care of; their labels may not be listed")
			}
		}
	}
}

func (o *object) consistentHash(path string, h *networking.LoadBalancerSettings_ConsistentHashLB) {
	switch k := h.HashKey.(type) {
	case nil:
		o.fail(path, "one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is needed")
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		if k.HttpCookie.GetName() == "" {
			o.fail(path+".httpCookie.name", "a name is needed")
		}
		if d := k.HttpCookie.GetTtl(); d != nil && d.AsDuration() < 0 {
			o.fail(path+".httpCookie.ttl", "may not be negative")
		}
		for i, a := range k.HttpCookie.GetAttributes() {
			if a.Name == "" || strings.ContainsAny(a.Name+a.Value, ";\r\n") {
				o.fail(FieldPath(path+".httpCookie.attributes", i), "not a cookie attribute")
			}
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		o.headerName(path+".httpHeaderName", strings.TrimPrefix(k.HttpHeaderName, ":"))
	}
	//lint:ignore SA1019 deprecated, and in people's files
	if max(h.GetRingHash().GetMinimumRingSize(), h.MinimumRingSize) > maxRingSize {
		o.fail(path+".ringHash.minimumRingSize", fmt.Sprintf("may not be larger than %d", maxRingSize))
	}
	if n := h.GetMaglev().GetTableSize(); n > maxMaglevTable || n > 0 && !new(big.Int).SetUint64(n).ProbablyPrime(0) || n == 2 {
		o.fail(path+".maglev.tableSize", fmt.Sprintf("%d is not a prime from 3 to %d", n, maxMaglevTable))
	}
}

func (o *object) locality(path string, l *networking.LocalityLoadBalancerSetting, outlier bool) {
	if l == nil {
		return
	}
	if len(l.Distribute) > 0 && len(l.Failover)+len(l.FailoverPriority) > 0 {
		o.fail(path, "only one of distribute and failover (or failoverPriority) may be set")
	}
	for i, d := range l.Distribute {
		var sum uint32
		for _, to := range sortedKeys(d.To) {
			if d.To[to] == 0 {
				o.fail(FieldPath(path+".distribute", i)+".to."+to, "a weight of 0 is not allowed", "leave the locality out")
			}
			sum += d.To[to]
		}
		if sum != 100 {
			o.fail(FieldPath(path+".distribute", i)+".to", fmt.Sprintf("the weights add up to %d, not 100", sum))
		}
	}
	for i, f := range l.Failover {
		if f.From == f.To {
			o.fail(FieldPath(path+".failover", i), "from and to are the same region")
		}
		if strings.ContainsAny(f.From+f.To, "*/") {
			o.fail(FieldPath(path+".failover", i), "from and to are regions, without zones or wildcards")
		}
	}
	if !outlier && len(l.Failover)+len(l.FailoverPriority) > 0 {
		o.warn(path, "failover has no effect without outlierDetection in the same policy")
	}
}

func (o *object) connectionPool(path string, c *networking.ConnectionPoolSettings) {
	if c == nil {
		return
	}
	if c.Tcp == nil && c.Http == nil {
		o.fail(path, "one of tcp and http is needed")
	}
	for name, v := range map[string]int32{
		"tcp.maxConnections": c.GetTcp().GetMaxConnections(), "http.http1MaxPendingRequests": c.GetHttp().GetHttp1MaxPendingRequests(),
		"http.http2MaxRequests": c.GetHttp().GetHttp2MaxRequests(), "http.maxRequestsPerConnection": c.GetHttp().GetMaxRequestsPerConnection(),
		"http.maxRetries": c.GetHttp().GetMaxRetries(), "http.maxConcurrentStreams": c.GetHttp().GetMaxConcurrentStreams(),
	} {
		if v < 0 {
			o.fail(path+"."+name, "may not be negative")
		}
	}
	o.period(path+".tcp.connectTimeout", c.GetTcp().GetConnectTimeout())
	o.period(path+".tcp.maxConnectionDuration", c.GetTcp().GetMaxConnectionDuration())
	for name, d := range map[string]*durationpb.Duration{"tcp.idleTimeout": c.GetTcp().GetIdleTimeout(), "http.idleTimeout": c.GetHttp().GetIdleTimeout()} {
		if d != nil && d.AsDuration() < 0 { // 0 is off
			o.fail(path+"."+name, "may not be negative")
		}
	}
	if k := c.GetHttp().GetHttp2KeepAlive(); k != nil {
		if k.Interval == nil || k.Timeout == nil {
			o.fail(path+".http.http2KeepAlive", "interval and timeout are needed")
		}
		o.period(path+".http.http2KeepAlive.interval", k.Interval)
		o.period(path+".http.http2KeepAlive.timeout", k.Timeout)
	}
	if h := c.GetHttp(); h.GetUseClientProtocol() && h.GetH2UpgradePolicy() == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE {
		o.fail(path+".http.useClientProtocol", "cannot be combined with h2UpgradePolicy UPGRADE")
	}
}

func (o *object) outlier(path string, d *networking.OutlierDetection) {
	if d == nil {
		return
	}
	for name, v := range map[string]int32{"maxEjectionPercent": d.MaxEjectionPercent, "minHealthPercent": d.MinHealthPercent} {
		if v < 0 || v > 100 {
			o.fail(path+"."+name, fmt.Sprintf("%d is not a percentage", v))
		}
	}
	o.period(path+".interval", d.Interval)
	o.period(path+".baseEjectionTime", d.BaseEjectionTime)
	for i, code := range d.OutlierDetectionHttpErrorCodes {
		if code < 100 || code > 599 {
			o.fail(FieldPath(path+".outlierDetectionHttpErrorCodes", i), fmt.Sprintf("%d is not a status (100 to 599)", code))
		}
	}
	if !d.SplitExternalLocalOriginErrors && d.ConsecutiveLocalOriginFailures.GetValue() > 0 {
		o.warn(path+".consecutiveLocalOriginFailures", "has no effect without splitExternalLocalOriginErrors")
	}
	//lint:ignore SA1019 deprecated, and in people's files
	if d.ConsecutiveErrors != 0 {
		o.warn(path+".consecutiveErrors", "deprecated", "use consecutive5xxErrors or consecutiveGatewayErrors")
	}
}

func (o *object) clientTLS(path string, t *networking.ClientTLSSettings) {
	if t == nil {
		return
	}
	if t.Mode == networking.ClientTLSSettings_MUTUAL && t.CredentialName == "" && (t.ClientCertificate == "" || t.PrivateKey == "") {
		o.fail(path, "mode MUTUAL needs clientCertificate and privateKey, or credentialName")
	}
	if t.Mode == networking.ClientTLSSettings_ISTIO_MUTUAL && (t.ClientCertificate != "" || t.PrivateKey != "" || t.CaCertificates != "" || t.CredentialName != "") {
		o.fail(path, "mode ISTIO_MUTUAL uses the mesh's certificates; it takes none of its own")
	}
}
