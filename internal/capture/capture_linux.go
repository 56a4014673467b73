// Package capture redirects the TCP connections of a network namespace to the
// sidecar in it, with nftables: the same decisions as Istio's rules, told
// apart by socket mark (or user id on Kubernetes) instead of packets' looks.
// Translate stands beside it for kube-proxy where there is none.
package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Mark is the socket mark of the sidecar's own connections.
const Mark = 1337

const tableName = "tulle"

// Options of Apply.
type Options struct {
	// NetNS is a file descriptor of the namespace; 0 is the current one.
	NetNS                     int
	OutboundPort, InboundPort uint16
	// ExcludeInbound ports are reached directly: health and metrics.
	ExcludeInbound []uint16
	// DNSPort is where DNS goes, UDP and TCP, whatever server the application
	// asks; 0 leaves it alone.
	DNSPort uint16
	// ExcludeOutbound addresses are left alone (the name server's other ports).
	ExcludeOutbound []netip.Addr
}

// Apply installs the rules, replacing earlier ones. Needs CAP_NET_ADMIN over
// the namespace.
func Apply(o Options) error {
	c, err := connect(o.NetNS)
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	c.FlushTable(t)
	out := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	in := c.AddChain(&nftables.Chain{Name: "prerouting", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
	}
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	// The sidecar calling its own workload by the pod's address must come in
	// through the inbound listener like any other caller; its connections to the
	// application (from 127.0.0.6) must not.
	rule(out, mark(), source(netip.MustParseAddr("127.0.0.6")), accept)
	rule(out, mark(), loopback(), notLocalhost(), tcp(), redirect(o.InboundPort))
	rule(out, mark(), accept)
	rule(out, loopback(), accept)
	if o.DNSPort != 0 {
		rule(out, udp(), port(53), redirect(o.DNSPort))
		rule(out, tcp(), port(53), redirect(o.DNSPort))
	}
	for _, a := range o.ExcludeOutbound {
		rule(out, destination(a), accept)
	}
	rule(out, tcp(), redirect(o.OutboundPort))
	for _, p := range o.ExcludeInbound {
		rule(in, tcp(), port(p), accept)
	}
	rule(in, tcp(), redirect(o.InboundPort))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install redirection: %w (does the kernel have nf_tables and nft_redir?)", err)
	}
	return nil
}

func connect(netns int) (*nftables.Conn, error) {
	var opts []nftables.ConnOption
	if netns != 0 {
		opts = append(opts, nftables.WithNetNSFd(netns))
	}
	c, err := nftables.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

func mark() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(Mark)}}
}

func tcp() []expr.Any { return protocol(unix.IPPROTO_TCP) }
func udp() []expr.Any { return protocol(unix.IPPROTO_UDP) }

func protocol(number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}}}
}

func loopback() []expr.Any {
	name := make([]byte, 16)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name}}
}

func address(offset uint32, a netip.Addr) []expr.Any {
	b := a.As4()
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b[:]}}
}

func source(a netip.Addr) []expr.Any      { return address(12, a) }
func destination(a netip.Addr) []expr.Any { return address(16, a) }

func notLocalhost() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{127}}}
}

func port(p uint16) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)}}
}

func redirect(p uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(p)}, &expr.Redir{RegisterProtoMin: 1}}
}
