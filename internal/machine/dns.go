package machine

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

const nameTTL = 5 // seconds: headless answers change with readiness

// nameServer answers for services and pods of the room; it forwards nothing.
type nameServer struct {
	room    *Room
	servers []*dns.Server
	wg      sync.WaitGroup
}

func serveNames(addr netip.AddrPort, r *Room, log *slog.Logger) (*nameServer, error) {
	n := &nameServer{room: r}
	udp, err := net.ListenPacket("udp4", addr.String())
	if err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp4", addr.String())
	if err != nil {
		udp.Close()
		return nil, err
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: n}, {Listener: tcp, Handler: n}} {
		n.servers = append(n.servers, s)
		n.wg.Go(func() {
			if err := s.ActivateAndServe(); err != nil {
				log.Error("name server", "err", err)
			}
		})
	}
	return n, nil
}

func (n *nameServer) close() {
	for _, s := range n.servers {
		_ = s.Shutdown() // not started is fine too
	}
	n.wg.Wait()
}

// ServeDNS implements dns.Handler.
func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative = true
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeFormatError
		_ = w.WriteMsg(m) // the asker has gone
		return
	}
	name := strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")
	addrs, known := n.room.lookup(name)
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	if t := q.Question[0].Qtype; t == dns.TypeA || t == dns.TypeANY {
		for _, a := range addrs {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: nameTTL}, A: a.AsSlice()})
		}
	}
	m.Truncate(dns.MinMsgSize)
	_ = w.WriteMsg(m)
}

// lookup resolves a fully qualified name: a service's address, the ready pods
// of a headless one, or one pod of it by host name.
func (r *Room) lookup(name string) (addrs []netip.Addr, known bool) {
	if name == "localhost" {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, true
	}
	rest, ok := strings.CutSuffix(name, ".svc.cluster.local")
	if !ok {
		return nil, false
	}
	parts := strings.Split(rest, ".")
	host := ""
	if len(parts) == 3 {
		host, parts = parts[0], parts[1:]
	}
	if len(parts) != 2 {
		return nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.set == nil {
		return nil, false
	}
	for _, s := range r.set.Services {
		if s.Name != parts[0] || s.Namespace != parts[1] {
			continue
		}
		if a, err := netip.ParseAddr(s.Spec.Spec.ClusterIP); err == nil && host == "" {
			return []netip.Addr{a}, true
		}
		for _, p := range r.pods {
			if p.spec.Namespace == s.Namespace && selects(s.Spec.Spec.Selector, p.spec.Labels) && p.ready.Load() && (host == "" || host == p.spec.Name) {
				addrs = append(addrs, p.addr)
			}
		}
		return addrs, host == "" || len(addrs) > 0
	}
	return nil, false
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}
