package authz

import (
	"net/netip"
	"strings"
)

// RemoteIP is the client's address for remoteIpBlocks and remote.ip: the entry
// of x-forwarded-for that stands hops before the last (0: the last one, which
// a sidecar believes, as it is the gateway's word), else the peer's. An entry
// that is no address says nothing, as in Envoy.
func RemoteIP(peer netip.Addr, forwarded string, hops int) netip.Addr {
	for ; hops > 0; hops-- {
		i := strings.LastIndexByte(forwarded, ',')
		if i < 0 {
			return peer
		}
		forwarded = forwarded[:i]
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(forwarded[strings.LastIndexByte(forwarded, ',')+1:]))
	if err != nil {
		return peer
	}
	return addr.Unmap()
}
