package xds

import (
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	dnspb "github.com/envoyproxy/go-control-plane/envoy/data/dns/v3"
	dnsfilter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/udp/dns_filter/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// encodeDNS says it in Envoy's words: a UDP listener with the DNS filter. (In
// Istio the agent beside Envoy is the name server.)
func encodeDNS(out *listenerpb.Listener, l *ir.Listener) {
	out.Address.GetSocketAddress().Protocol = core.SocketAddress_UDP
	out.UdpListenerConfig = &listenerpb.UdpListenerConfig{}
	table := &dnspb.DnsTable{ExternalRetryCount: 1}
	for _, n := range l.DNS.Names {
		list := &dnspb.DnsTable_AddressList{}
		for _, a := range n.Addresses {
			list.Address = append(list.Address, a.String())
		}
		table.VirtualDomains = append(table.VirtualDomains, &dnspb.DnsTable_DnsVirtualDomain{Name: n.Host, AnswerTtl: durationpb.New(30 * time.Second),
			Endpoint: &dnspb.DnsTable_DnsEndpoint{EndpointConfig: &dnspb.DnsTable_DnsEndpoint_AddressList{AddressList: list}}})
	}
	filter := &dnsfilter.DnsFilterConfig{StatPrefix: l.Name,
		ServerConfig: &dnsfilter.DnsFilterConfig_ServerContextConfig{ConfigSource: &dnsfilter.DnsFilterConfig_ServerContextConfig_InlineDnsTable{InlineDnsTable: table}},
		ClientConfig: &dnsfilter.DnsFilterConfig_ClientContextConfig{ResolverTimeout: durationpb.New(2 * time.Second), MaxPendingLookups: 256},
	}
	out.ListenerFilters = []*listenerpb.ListenerFilter{{Name: "envoy.filters.udp.dns_filter", ConfigType: &listenerpb.ListenerFilter_TypedConfig{TypedConfig: pack(filter)}}}
}
