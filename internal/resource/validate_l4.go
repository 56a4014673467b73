package resource

import (
	"fmt"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

func (o *object) l4Destinations(path string, list []*networking.RouteDestination) {
	if len(list) == 0 {
		o.fail(path, "a route is needed")
	}
	var sum int32
	for i, d := range list {
		o.destination(FieldPath(path+".route", i, "destination"), d.Destination)
		o.weight(FieldPath(path+".route", i, "weight"), d.Weight)
		sum += d.Weight
	}
	if len(list) > 1 && sum == 0 {
		o.fail(path+".route", "the weights add up to 0: no destination would get a connection")
	}
}

func (o *object) subnets(path string, list []string) {
	for i, s := range list {
		if _, err := ParseSubnet(s); err != nil {
			o.fail(FieldPath(path, i), fmt.Sprintf("%q is not an address or a CIDR block", s))
		}
	}
}

// ParseSubnet reads an address or a CIDR block; host bits are cleared.
func ParseSubnet(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

func (o *object) tcpRoute(path string, r *networking.TCPRoute) {
	o.l4Destinations(path, r.Route)
	for i, m := range r.Match {
		sub := FieldPath(path+".match", i)
		o.subnets(sub+".destinationSubnets", m.DestinationSubnets)
		if m.SourceSubnet != "" {
			o.fail(sub+".sourceSubnet", "Istio does not implement it", "use sourceLabels or an AuthorizationPolicy")
		}
		if m.Port > 65535 {
			o.portNumber(sub+".port", m.Port)
		}
	}
}

func (o *object) tlsRoute(path string, r *networking.TLSRoute, hosts []string) {
	o.l4Destinations(path, r.Route)
	if len(r.Match) == 0 {
		o.fail(path+".match", "a match is needed: TLS is routed by server name")
	}
	for i, m := range r.Match {
		sub := FieldPath(path+".match", i)
		if len(m.SniHosts) == 0 {
			o.fail(sub+".sniHosts", "at least one SNI host is needed")
		}
		for j, sni := range m.SniHosts {
			o.host(FieldPath(sub+".sniHosts", j), sni)
			if !coveredBy(sni, hosts) {
				o.fail(FieldPath(sub+".sniHosts", j), fmt.Sprintf("%q is not covered by spec.hosts", sni), "SNI hosts must be a subset of the VirtualService's hosts")
			}
		}
		o.subnets(sub+".destinationSubnets", m.DestinationSubnets)
		if m.Port > 65535 {
			o.portNumber(sub+".port", m.Port)
		}
	}
}

func coveredBy(sni string, hosts []string) bool {
	for _, h := range hosts {
		if h == "*" || h == sni || strings.HasPrefix(h, "*.") && strings.HasSuffix(sni, h[1:]) {
			return true
		}
	}
	return false
}
