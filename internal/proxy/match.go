package proxy

import (
	"net/netip"
	"strings"
)

// match finds the filter chain for a connection, in Envoy's order: destination
// port, address, server name, transport protocol, application protocol; at
// each step the most specific value that any chain names decides, and chains
// that name another drop out.
func (l *listener) match(dst netip.AddrPort, h hello) *chain {
	candidates := l.chains
	candidates = narrow(candidates, func(c *chain) int {
		switch c.Match.Port {
		case dst.Port():
			return 1
		case 0:
			return 0
		}
		return -1
	})
	candidates = narrow(candidates, func(c *chain) int { return prefixRank(c.Match.Prefixes, dst.Addr()) })
	candidates = narrow(candidates, func(c *chain) int { return serverNameRank(c.Match.ServerNames, h.serverName) })
	candidates = narrow(candidates, func(c *chain) int {
		switch c.Match.Transport {
		case h.transport:
			return 1
		case "":
			return 0
		}
		return -1
	})
	candidates = narrow(candidates, func(c *chain) int { return alpnRank(c.Match.ALPN, h.alpn) })
	if len(candidates) == 0 {
		return l.def
	}
	return candidates[0]
}

// narrow keeps the chains of the highest rank; a negative rank does not match.
func narrow(chains []*chain, rank func(*chain) int) []*chain {
	best := -1
	var kept []*chain
	for _, c := range chains {
		switch r := rank(c); {
		case r < 0 || r < best:
		case r > best:
			best, kept = r, append(kept[:0:0], c)
		default:
			kept = append(kept, c)
		}
	}
	return kept
}

func prefixRank(prefixes []netip.Prefix, addr netip.Addr) int {
	if len(prefixes) == 0 {
		return 0
	}
	best := -1
	for _, p := range prefixes {
		if p.Contains(addr) {
			best = max(best, p.Bits()+1)
		}
	}
	return best
}

// serverNameRank: exact beats the longest "*.suffix", which beats none.
func serverNameRank(names []string, sni string) int {
	if len(names) == 0 {
		return 0
	}
	best := -1
	for _, n := range names {
		switch {
		case n == sni && sni != "":
			return 1 << 20
		case strings.HasPrefix(n, "*.") && strings.HasSuffix(sni, n[1:]):
			best = max(best, len(n))
		case n == "*":
			best = max(best, 0)
		}
	}
	return best
}

func alpnRank(want, got []string) int {
	if len(want) == 0 {
		return 0
	}
	for _, w := range want {
		for _, g := range got {
			if w == g {
				return 1
			}
		}
	}
	return -1
}
