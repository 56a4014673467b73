package compile

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func (b *builder) applyLB(c *ir.Cluster, lb *networking.LoadBalancerSettings) {
	setting := b.localitySetting(lb)
	c.LocalityWeighted = len(setting.GetDistribute()) > 0 || c.Outlier != nil && len(setting.GetFailover())+len(setting.GetFailoverPriority()) > 0
	if z := lb.GetZoneAwareLbSetting(); z.GetEnabled().GetValue() {
		c.LocalityWeighted, c.ZoneAware = false, b.zoneAware(z)
	}
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
	if h := lb.GetConsistentHash(); h != nil {
		applyHash(c, h)
	}
	if c.LB == ir.RoundRobin || c.LB == ir.LeastRequest {
		c.Warmup = warmup(lb)
	}
}

// applyHash: ring hash unless maglev is asked for.
func applyHash(c *ir.Cluster, h *networking.LoadBalancerSettings_ConsistentHashLB) {
	if m := h.GetMaglev(); m != nil {
		c.LB = ir.Maglev
		if m.TableSize > 0 {
			c.Hash = &ir.HashLB{TableSize: m.TableSize}
		}
		return
	}
	c.LB = ir.RingHash
	size := h.GetRingHash().GetMinimumRingSize()
	if size == 0 {
		//lint:ignore SA1019 deprecated, and in people's files
		size = h.MinimumRingSize
	}
	if size > 0 {
		c.Hash = &ir.HashLB{MinRingSize: size}
	}
}

func warmup(lb *networking.LoadBalancerSettings) *ir.Warmup {
	if w := lb.GetWarmup(); w != nil {
		out := &ir.Warmup{Duration: dur(w.Duration, 0), MinPercent: 10, Aggression: 1}
		if w.MinimumPercent != nil {
			out.MinPercent = w.MinimumPercent.Value
		}
		if w.Aggression != nil {
			out.Aggression = w.Aggression.Value
		}
		return out
	}
	if d := lb.GetWarmupDurationSecs(); d != nil {
		return &ir.Warmup{Duration: dur(d, 0), MinPercent: 10, Aggression: 1}
	}
	return nil
}

// hashPolicy is what routes to a cluster with consistent hashing look at.
func hashPolicy(lb *networking.LoadBalancerSettings) []ir.HashPolicy {
	switch k := lb.GetConsistentHash().GetHashKey().(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		return []ir.HashPolicy{{Header: strings.ToLower(k.HttpHeaderName)}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		c := k.HttpCookie
		out := &ir.HashCookie{Name: c.Name, Path: c.Path}
		if c.Ttl != nil {
			ttl := dur(c.Ttl, 0)
			out.TTL = &ttl
		}
		for _, a := range c.Attributes {
			text := a.Name
			if a.Value != "" {
				text += "=" + a.Value
			}
			out.Attributes = append(out.Attributes, text)
		}
		return []ir.HashPolicy{{Cookie: out}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		return []ir.HashPolicy{{SourceIP: true}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		return []ir.HashPolicy{{Query: k.HttpQueryParameterName}}
	}
	return nil
}

// finish completes routes and TCP chains with what the DestinationRules of
// their clusters say: hash policies, idle timeouts, tunnels. It runs last, when
// every cluster is known.
func (b *builder) finish() {
	for _, t := range b.out.Routes {
		for _, vh := range t.VirtualHosts {
			for _, r := range vh.Routes {
				if r.Forward != nil {
					b.finishForward(r)
				}
			}
		}
	}
	for _, l := range b.out.Listeners {
		for _, c := range l.Chains {
			b.finishTCP(c.TCP)
		}
		if l.Default != nil {
			b.finishTCP(l.Default.TCP)
		}
	}
}

// finishForward adds the hash policy of the first destination that has one, as
// istiod does. Where a VirtualService sends everything to that destination,
// retries go to the same host again (VS43), unless they say otherwise.
func (b *builder) finishForward(route *ir.Route) {
	f := route.Forward
	for _, w := range f.Clusters {
		p, ok := b.applied[w.Name]
		if !ok {
			continue
		}
		if f.HashPolicy = hashPolicy(p.lb); f.HashPolicy == nil {
			continue
		}
		if r := f.Retry; r != nil && !b.saysHosts[r] && len(f.Clusters) == 1 && route.Origin.Kind == "VirtualService" {
			own := *r
			own.PreviousHosts = false
			f.Retry = &own
		}
		return
	}
}

func (b *builder) finishTCP(t *ir.TCPProxy) {
	if t == nil || len(t.Clusters) == 0 {
		return
	}
	p, ok := b.applied[t.Clusters[0].Name]
	if !ok {
		return
	}
	if d := p.pool.GetTcp().GetIdleTimeout(); d != nil {
		if t.IdleTimeout = dur(d, 0); t.IdleTimeout == 0 {
			t.IdleTimeout = -1 // off
		}
	}
	t.MaxDuration = dur(p.pool.GetTcp().GetMaxConnectionDuration(), 0)
	t.HashSourceIP = p.lb.GetConsistentHash().GetUseSourceIp()
	switch {
	case p.tunnel == nil || len(t.Clusters) > 1:
	case p.tunnel.Protocol == "POST": // refused: nothing must go past the tunnel
		t.Clusters = []ir.WeightedCluster{{Name: ir.BlackHoleCluster}}
	default:
		t.Tunnel = &ir.Tunnel{Target: joinHostPort(p.tunnel.TargetHost, uint16(p.tunnel.TargetPort)), Origin: p.tunnelAt}
	}
}
