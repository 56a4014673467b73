package compile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// DNSPort is where a sidecar's name server listens, on localhost (Istio's).
const DNSPort = 15053

// dnsCapture is Istio's proxy metadata: sidecars answer for the names of the
// mesh unless it is turned off.
const dnsCapture = "ISTIO_META_DNS_CAPTURE"

// names compiles the sidecar's name server: the hosts that the node sees, with
// their own addresses, the given ones, or those of a headless service's
// instances. Hosts that are nobody's (resolution NONE) are left to the others.
func (b *builder) names() {
	if b.proxy.GetProxyMetadata()[dnsCapture] == "false" {
		return
	}
	t := &ir.DNS{Search: []string{b.node.Namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain}}
	known := map[string]bool{}
	add := func(host string, addrs []netip.Addr) {
		if host = strings.ToLower(host); len(addrs) > 0 && !known[host] {
			known[host] = true
			t.Names = append(t.Names, ir.Name{Host: host, Addresses: addrs})
		}
	}
	for _, s := range b.services {
		addrs := b.resolved(s)
		add(s.host, addrs)
		for _, a := range s.aliases {
			add(a.host, addrs)
		}
		if s.headless {
			for _, w := range s.instances { // a StatefulSet's pods have names of their own
				if w.Ready && w.Address.IsValid() {
					add(w.Name+"."+s.host, []netip.Addr{w.Address})
				}
			}
		}
	}
	slices.SortFunc(t.Names, func(a, c ir.Name) int { return strings.Compare(a.Host, c.Host) })
	b.out.Listeners = append(b.out.Listeners, &ir.Listener{Name: "dns", Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), DNSPort), Direction: ir.Outbound, DNS: t})
}

// resolved are the addresses that the service's host stands for. Of those that
// were chosen by us only the families count that the node has: nothing would
// take connections to the others to its sidecar.
func (b *builder) resolved(s *service) []netip.Addr {
	var out []netip.Addr
	switch {
	case s.headless:
		for _, w := range s.instances {
			if w.Ready && w.Address.IsValid() {
				out = append(out, w.Address)
			}
		}
		slices.SortFunc(out, netip.Addr.Compare)
	case s.allocated:
		for _, a := range s.vips {
			if a.Is4() || b.hasIPv6() {
				out = append(out, a)
			}
		}
	default:
		out = s.vips
	}
	return out
}

func (b *builder) hasIPv6() bool {
	return slices.ContainsFunc(b.node.IPs, func(ip string) bool {
		a, err := netip.ParseAddr(ip)
		return err == nil && a.Is6()
	})
}
