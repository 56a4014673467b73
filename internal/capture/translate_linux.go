package capture

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const servicesTable = "tulle-services"

// Forward is one port of a service. Addresses are IPv4.
type Forward struct {
	From netip.AddrPort
	UDP  bool // else TCP
	// To are the endpoints. Every new connection, or UDP flow, gets one of them
	// at random; with none it is refused.
	To []netip.AddrPort
}

// Translate does in a namespace what kube-proxy does on a node: whatever the
// namespace sends to a From address goes to one of its endpoints, and is
// refused at once where there is none, or where the service has no such port:
// connect fails with ECONNREFUSED, sending a datagram with EPERM, as on the
// node itself. What Apply redirects never gets here; the sidecar's own
// connections do. No two forwards may have the same From and protocol.
//
// The forwards replace earlier ones in one transaction: no packet sees half of
// them, and after an error the earlier ones are in force; some 4000 endpoints
// fit. Established connections stay where they are. netns is a file descriptor, 0 for the
// current namespace; it needs CAP_NET_ADMIN there. Calls for one namespace must
// not overlap.
func Translate(netns int, forwards []Forward) error {
	c, err := connect(netns)
	if err != nil {
		return err
	}
	t := &table{conn: c, Table: c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: servicesTable})}
	c.FlushTable(t.Table) // rules take their sets along
	// After Apply's chain: the kernel asks later NAT chains only about what
	// earlier ones left alone.
	nat := c.AddChain(&nftables.Chain{Name: "translate", Table: t.Table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 1)})
	for _, m := range endpointMaps(forwards) {
		t.rule(nat, m.pick(), t.lookup(m), forwardTo())
	}
	// After both: what still has the address of a service goes nowhere.
	refuse := c.AddChain(&nftables.Chain{Name: "refuse", Table: t.Table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
	for addrs := range slices.Chunk(serviceAddresses(forwards), maxElements) {
		t.rule(refuse, t.to(addrs), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable}})
	}
	if t.err == nil {
		t.err = c.Flush()
	}
	if t.err != nil {
		return fmt.Errorf("install address translation: %w (does the kernel have nf_tables, nft_nat, nft_numgen and nft_reject?)", t.err)
	}
	return nil
}

// portUnreachable is ICMP's code (RFC 792), by which connect knows at once.
const portUnreachable = 3

// maxElements of one set keep its netlink attribute below 64 KiB.
const maxElements = 1000

// endpointMap is what one rule looks up: (address, protocol, port, number
// below n) → endpoint, for service ports that have n endpoints each. A rule per
// n rather than per port: hundreds of rules fill a netlink socket's buffer.
type endpointMap struct {
	n        int
	elements []nftables.SetElement
}

var (
	endpointKey   = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeInteger)
	endpointValue = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
)

func endpointMaps(forwards []Forward) []endpointMap {
	byCount := map[int][]Forward{}
	for _, f := range forwards {
		if n := len(f.To); n > 0 {
			byCount[n] = append(byCount[n], f)
		}
	}
	var out []endpointMap
	for _, n := range slices.Sorted(maps.Keys(byCount)) {
		for chunk := range slices.Chunk(byCount[n], max(1, maxElements/n)) {
			m := endpointMap{n: n}
			for _, f := range chunk {
				for i, to := range f.To {
					m.elements = append(m.elements, nftables.SetElement{Key: f.key(i), Val: addrPort(to)})
				}
			}
			out = append(out, m)
		}
	}
	return out
}

// key of the endpoint of this number: registers of 32 bits, as pick fills them.
func (f Forward) key(number int) []byte {
	a := f.From.Addr().As4()
	proto := byte(unix.IPPROTO_TCP)
	if f.UDP {
		proto = unix.IPPROTO_UDP
	}
	b := append(a[:], proto, 0, 0, 0)
	b = append(binary.BigEndian.AppendUint16(b, f.From.Port()), 0, 0)
	return binary.NativeEndian.AppendUint32(b, uint32(number))
}

func addrPort(ap netip.AddrPort) []byte {
	a := ap.Addr().As4()
	return append(binary.BigEndian.AppendUint16(a[:], ap.Port()), 0, 0)
}

func serviceAddresses(forwards []Forward) []netip.Addr {
	addrs := map[netip.Addr]bool{}
	for _, f := range forwards {
		addrs[f.From.Addr()] = true
	}
	return slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare)
}

// Registers of 32 bits; key and value of a map lie in consecutive ones.
const reg0, reg1, reg2, reg3 = unix.NFT_REG32_00, unix.NFT_REG32_01, unix.NFT_REG32_02, unix.NFT_REG32_03

// pick fills the registers with the key of an endpoint at random.
func (m endpointMap) pick() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Payload{DestRegister: reg2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Numgen{Register: reg3, Modulus: uint32(m.n), Type: unix.NFT_NG_RANDOM},
	}
}

// forwardTo the endpoint that is in the registers.
func forwardTo() []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1}}
}

// table collects one transaction.
type table struct {
	*nftables.Table
	conn *nftables.Conn
	sets uint32
	err  error // the first
}

func (t *table) rule(ch *nftables.Chain, parts ...[]expr.Any) {
	t.conn.AddRule(&nftables.Rule{Table: t.Table, Chain: ch, Exprs: slices.Concat(parts...)})
}

// lookup replaces the key in the registers by the endpoint, or ends the rule.
func (t *table) lookup(m endpointMap) []expr.Any {
	s := t.add(&nftables.Set{Name: "__map%d", IsMap: true, KeyType: endpointKey, DataType: endpointValue}, m.elements)
	return []expr.Any{&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetID: s.ID, SetName: s.Name}}
}

// to ends the rule unless the destination is one of the addresses.
func (t *table) to(addrs []netip.Addr) []expr.Any {
	var elements []nftables.SetElement
	for _, a := range addrs {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	s := t.add(&nftables.Set{Name: "__set%d", KeyType: nftables.TypeIPAddr}, elements)
	return []expr.Any{
		&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Lookup{SourceRegister: reg0, SetID: s.ID, SetName: s.Name},
	}
}

// add makes an anonymous set. Its ID is unique within the transaction, which is
// all the kernel asks; the library would take one from an unguarded global.
func (t *table) add(s *nftables.Set, elements []nftables.SetElement) *nftables.Set {
	t.sets++
	s.Table, s.ID, s.Anonymous, s.Constant = t.Table, t.sets, true, true
	if err := t.conn.AddSet(s, elements); err != nil && t.err == nil {
		t.err = err
	}
	return s
}
