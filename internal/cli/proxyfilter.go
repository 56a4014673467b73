package cli

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// The filters of proxy-config, named as istioctl's. One that is not given lets
// everything through; those that are given must all agree.

// kept is what of a list a filter lets through; never nil, so that JSON says []
// for nothing.
func kept[T any](list []T, keeps func(T) bool) []T {
	out := []T{}
	for _, x := range list {
		if keeps(x) {
			out = append(out, x)
		}
	}
	return out
}

// oneOf is a flag whose value is one of a few words, in any case.
type oneOf struct {
	value *string
	words []string
}

func (o oneOf) String() string { return "" }
func (o oneOf) Type() string   { return strings.Join(o.words, "|") }

// Set implements pflag.Value.
func (o oneOf) Set(s string) error {
	for _, w := range o.words {
		if strings.EqualFold(s, w) {
			*o.value = w
			return nil
		}
	}
	return fmt.Errorf("want %s", strings.Join(o.words, ", "))
}

func oneOfFlag(c *cobra.Command, value *string, name, help string, words ...string) {
	c.Flags().Var(oneOf{value, words}, name, help)
	_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
}

type listenerFilter struct {
	address, kind string
	port          uint16
}

func (f *listenerFilter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.address, "address", "", "only listeners on this IP address")
	c.Flags().Uint16Var(&f.port, "port", 0, "only listeners on this port")
	oneOfFlag(c, &f.kind, "type", "only listeners that serve this", "HTTP", "TCP", "HTTP+TCP", "DNS")
}

func (f *listenerFilter) keeps(l *ir.Listener) bool {
	return (f.address == "" || sameAddress(f.address, l.Address.Addr().String())) &&
		(f.port == 0 || f.port == l.Address.Port()) &&
		(f.kind == "" || f.kind == listenerType(l))
}

// listenerType is what a listener is for. A chain that leads to no service
// counts only where there is no other: istioctl calls every outbound HTTP
// listener HTTP+TCP for its passthrough, and --type HTTP finds none.
func listenerType(l *ir.Listener) string {
	if l.DNS != nil {
		return "DNS"
	}
	var http, tcp bool
	for _, c := range append(l.Chains[:len(l.Chains):len(l.Chains)], l.Default) {
		if c != nil {
			http = http || c.HTTP != nil
			tcp = tcp || c.TCP != nil && !noService(c.TCP)
		}
	}
	switch {
	case http && tcp:
		return "HTTP+TCP"
	case http:
		return "HTTP"
	}
	return "TCP"
}

func noService(t *ir.TCPProxy) bool {
	return len(t.Clusters) == 1 && slices.Contains([]string{ir.BlackHoleCluster, ir.PassthroughCluster, ir.InboundPassthrough}, t.Clusters[0].Name)
}

type clusterFilter struct {
	fqdn, direction, subset string
	port                    uint16
}

func (f *clusterFilter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.fqdn, "fqdn", "", "only clusters of services whose full name has this in it")
	c.Flags().StringVar(&f.subset, "subset", "", "only clusters of this subset")
	c.Flags().Uint16Var(&f.port, "port", 0, "only clusters of this service port")
	oneOfFlag(c, &f.direction, "direction", "only clusters of this direction", string(ir.Inbound), string(ir.Outbound))
}

func (f *clusterFilter) keeps(c *ir.Cluster) bool {
	n := splitCluster(c.Name)
	return (f.fqdn == "" || strings.Contains(n.host, f.fqdn)) &&
		(f.subset == "" || n.subset == f.subset) &&
		(f.port == 0 || n.port == fmt.Sprint(f.port)) &&
		(f.direction == "" || n.direction == f.direction)
}

type endpointFilter struct {
	address, cluster, status string
	port                     uint16
}

func (f *endpointFilter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.address, "address", "", "only endpoints at this IP address")
	c.Flags().Uint16Var(&f.port, "port", 0, "only endpoints at this port")
	c.Flags().StringVar(&f.cluster, "cluster", "", "only endpoints of the cluster of this name")
	oneOfFlag(c, &f.status, "status", "only endpoints in this state", "healthy", "unhealthy", "draining")
}

// within is what of the clusters is left; one without endpoints stays only
// where nothing was asked of endpoints.
func (f *endpointFilter) within(list []agent.ClusterStatus) []agent.ClusterStatus {
	out := []agent.ClusterStatus{}
	for _, c := range list {
		if f.cluster != "" && !strings.EqualFold(c.Name, f.cluster) {
			continue
		}
		if f.address != "" || f.status != "" || f.port != 0 {
			if c.Endpoints = kept(c.Endpoints, f.keeps); len(c.Endpoints) == 0 {
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

func (f *endpointFilter) keeps(e agent.EndpointStatus) bool {
	host, port, err := net.SplitHostPort(e.Address)
	if err != nil {
		host = e.Address // a Unix socket
	}
	return (f.address == "" || sameAddress(f.address, host)) &&
		(f.port == 0 || port == fmt.Sprint(f.port)) &&
		(f.status == "" || strings.EqualFold(f.status, e.Status))
}

// sameAddress compares addresses, however an IPv6 one is written, and names.
func sameAddress(a, b string) bool {
	x, errA := netip.ParseAddr(a)
	y, errB := netip.ParseAddr(b)
	if errA == nil && errB == nil {
		return x.Unmap() == y.Unmap()
	}
	return strings.EqualFold(a, b)
}
