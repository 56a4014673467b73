package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func names() *ir.Snapshot {
	many := make([]netip.Addr, 100)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 244, 1, byte(i)})
	}
	one := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	return &ir.Snapshot{Listeners: []*ir.Listener{{DNS: &ir.DNS{
		Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"},
		Names: []ir.Name{
			{Host: "worker.shop.svc.cluster.local", Addresses: one("10.96.0.1")},
			{Host: "many.shop.svc.cluster.local", Addresses: many},
			{Host: "api.example.com", Addresses: one("240.240.1.1")},
			{Host: "*.wild.example.com", Addresses: one("10.0.0.1")},
			{Host: "*.deep.wild.example.com", Addresses: one("10.0.0.2")},
			{Host: "six.example.com", Addresses: one("2001:db8::1")},
		},
	}}}}
}

// start runs a server whose forwarding is forward; nil fails the test when it
// is used.
func start(t *testing.T, forward func(context.Context, string, []byte) ([]byte, error)) string {
	t.Helper()
	if forward == nil {
		forward = func(_ context.Context, _ string, q []byte) ([]byte, error) {
			t.Errorf("asked others: %x", q)
			return nil, errors.New("nobody")
		}
	}
	s := New(Options{Forward: forward})
	s.Apply(names())
	at, err := s.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return at.String()
}

// ask uses the stock client and describes the answer.
func ask(t *testing.T, network, server, name string, kind uint16, size uint16) string {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	if size > 0 {
		m.SetEdns0(size, false)
	}
	r, _, err := (&dns.Client{Net: network, Timeout: 10 * time.Second}).Exchange(m, server)
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	out := []string{dns.RcodeToString[r.Rcode]}
	if r.Truncated {
		out = append(out, "truncated")
	}
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		case *dns.CNAME:
			out = append(out, "="+rr.Target)
		}
	}
	if len(out) > 10 {
		return fmt.Sprintf("%s and %d answers", out[0], len(out)-1)
	}
	return strings.Join(out, " ")
}

func TestAnswers(t *testing.T) {
	server := start(t, nil)
	for _, tt := range []struct {
		network, name string
		kind, size    uint16
		want          string
	}{
		{"udp", "worker.shop.svc.cluster.local.", dns.TypeA, 0, "NOERROR 10.96.0.1"},
		{"tcp", "worker.shop.svc.cluster.local.", dns.TypeA, 0, "NOERROR 10.96.0.1"},
		{"udp", "WORKER.Shop.svc.cluster.local.", dns.TypeA, 1232, "NOERROR 10.96.0.1"},
		{"udp", "worker.shop.svc.cluster.local.", dns.TypeAAAA, 0, "NOERROR"}, // empty: the resolver must not try elsewhere
		{"udp", "six.example.com.", dns.TypeAAAA, 0, "NOERROR 2001:db8::1"},
		{"udp", "six.example.com.", dns.TypeA, 0, "NOERROR"},
		{"udp", "api.example.com.", dns.TypeA, 0, "NOERROR 240.240.1.1"},
		{"udp", "api.example.com.shop.svc.cluster.local.", dns.TypeA, 0, "NOERROR =api.example.com. 240.240.1.1"},
		{"udp", "x.wild.example.com.", dns.TypeA, 0, "NOERROR 10.0.0.1"},
		{"udp", "x.y.deep.wild.example.com.", dns.TypeA, 0, "NOERROR 10.0.0.2"},
		{"udp", "many.shop.svc.cluster.local.", dns.TypeA, 0, "NOERROR truncated"},
		{"udp", "many.shop.svc.cluster.local.", dns.TypeA, 4096, "NOERROR and 100 answers"},
		{"tcp", "many.shop.svc.cluster.local.", dns.TypeA, 0, "NOERROR and 100 answers"},
	} {
		if got := ask(t, tt.network, server, tt.name, tt.kind, tt.size); got != tt.want {
			t.Errorf("%s %s %s: %q, want %q", tt.network, tt.name, dns.TypeToString[tt.kind], got, tt.want)
		}
	}
}

// A response to a query with EDNS has it too, whatever it says (RFC 6891 section
// 6.1.1), and no other has it.
func TestEveryResponseSpeaksEDNS(t *testing.T) {
	for _, edns := range []bool{false, true} {
		m := new(dns.Msg).SetQuestion("many.shop.svc.cluster.local.", dns.TypeA)
		if edns {
			m.SetEdns0(512, false)
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		q, err := parse(b)
		if err != nil {
			t.Fatal(err)
		}
		for what, msg := range map[string][]byte{"answer": newTable(names().Listeners[0].DNS).answer(q, maxMessage), "truncated": q.truncated(), "failure": q.fail(dnsmessage.RCodeServerFailure)} {
			r := new(dns.Msg)
			if err := r.Unpack(msg); err != nil {
				t.Fatal(what, err)
			}
			if got := r.IsEdns0() != nil; got != edns {
				t.Errorf("%s: EDNS %v to a query with EDNS %v", what, got, edns)
			}
		}
	}
}

// What is not ours goes to the others, whole.
func TestForwards(t *testing.T) {
	upstream := &dns.Server{Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		switch name := q.Question[0].Name; {
		case q.Question[0].Qtype == dns.TypeMX:
			m.Answer = append(m.Answer, &dns.MX{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeMX, Class: dns.ClassINET}, Mx: "mx.example.com."})
		case name == "www.example.org.":
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)})
		default:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	upstream.PacketConn = udp
	done := make(chan error, 1)
	go func() { done <- upstream.ActivateAndServe() }()
	defer func() {
		udp.Close()
		<-done
	}()
	up := &Upstreams{Servers: []netip.AddrPort{udp.LocalAddr().(*net.UDPAddr).AddrPort()}}
	server := start(t, up.Ask)
	for _, tt := range []struct{ name, want string }{
		{"www.example.org.", "NOERROR 192.0.2.1"},
		{"worker.shop.svc.cluster.local.shop.svc.cluster.local.", "NXDOMAIN"},
		{"nobody.example.org.", "NXDOMAIN"},
		{"wild.example.com.", "NXDOMAIN"}, // a wildcard is not its own domain
	} {
		if got := ask(t, "udp", server, tt.name, dns.TypeA, 0); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	m, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("worker.shop.svc.cluster.local.", dns.TypeMX), server)
	if err != nil || len(m.Answer) != 1 {
		t.Errorf("MX of our own name: %v, %v", m, err)
	}
}

// When nobody else answers, the failure is said.
func TestForwardsFail(t *testing.T) {
	server := start(t, func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("no") })
	for _, network := range []string{"udp", "tcp"} {
		if got := ask(t, network, server, "www.example.org.", dns.TypeA, 0); got != "SERVFAIL" {
			t.Errorf("%s: %q", network, got)
		}
	}
}

// A server that cannot say is no answer: the next one is asked, as the
// workload's resolver would. When none can, what the last one said is passed on.
func TestAsksTheNextServer(t *testing.T) {
	serve := func(rcode int) netip.AddrPort {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			_ = w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
		})}
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		t.Cleanup(func() {
			udp.Close()
			<-done
		})
		return udp.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	fails, refuses, knows, denies := serve(dns.RcodeServerFailure), serve(dns.RcodeRefused), serve(dns.RcodeSuccess), serve(dns.RcodeNameError)
	for _, tt := range []struct {
		servers []netip.AddrPort
		want    string
	}{
		{[]netip.AddrPort{fails, refuses, knows}, "NOERROR"},
		{[]netip.AddrPort{fails, denies}, "NXDOMAIN"},
		{[]netip.AddrPort{denies, knows}, "NXDOMAIN"},
		{[]netip.AddrPort{fails, refuses}, "REFUSED"},
	} {
		server := start(t, (&Upstreams{Servers: tt.servers}).Ask)
		if got := ask(t, "udp", server, "www.example.org.", dns.TypeA, 0); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.servers, got, tt.want)
		}
	}
}

// Queries that wait are bounded; the one too many is refused at once.
func TestPendingIsBounded(t *testing.T) {
	waiting, release := make(chan struct{}, maxPending), make(chan struct{})
	server := start(t, func(context.Context, string, []byte) ([]byte, error) {
		waiting <- struct{}{}
		<-release
		return nil, errors.New("released")
	})
	c, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range maxPending {
		m := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
		m.Id = uint16(i)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		<-waiting
	}
	if got := ask(t, "udp", server, "one.too.many.", dns.TypeA, 0); got != "SERVFAIL" {
		t.Errorf("one too many: %q", got)
	}
	if got := ask(t, "udp", server, "api.example.com.", dns.TypeA, 0); got != "NOERROR 240.240.1.1" {
		t.Errorf("our own meanwhile: %q", got)
	}
	close(release)
}

func TestAnswersMustFit(t *testing.T) {
	query, err := new(dns.Msg).SetQuestion("a.example.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := func(change func(*dns.Msg)) []byte {
		q := new(dns.Msg)
		if err := q.Unpack(query); err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg).SetReply(q)
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, tt := range map[string]struct {
		msg  []byte
		want bool
	}{
		"the answer":     {reply(func(*dns.Msg) {}), true},
		"other case":     {reply(func(m *dns.Msg) { m.Question[0].Name = "A.example.com." }), true},
		"another id":     {reply(func(m *dns.Msg) { m.Id++ }), false},
		"another name":   {reply(func(m *dns.Msg) { m.Question[0].Name = "b.example.com." }), false},
		"another type":   {reply(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }), false},
		"a query":        {query, false},
		"without a word": {nil, false},
	} {
		if got := answers(tt.msg, query); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzQuery: whatever arrives, an answer repeats the question, is no longer
// than the asker takes and is read by the parser that everybody uses.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"worker.shop.svc.cluster.local.", "many.shop.svc.cluster.local.", "x.wild.example.com.", "api.example.com.shop.svc.cluster.local."} {
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		m.SetEdns0(1232, true)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	t := newTable(names().Listeners[0].DNS)
	f.Fuzz(func(test *testing.T, msg []byte) {
		q, err := parse(msg)
		if err != nil {
			return
		}
		if q.size < minUDP || q.size > maxUDP {
			test.Fatalf("size %d", q.size)
		}
		for _, out := range [][]byte{t.answer(q, q.size), q.fail(dnsmessage.RCodeServerFailure), q.truncated()} {
			if out == nil {
				continue
			}
			var m dnsmessage.Message
			if err := m.Unpack(out); err != nil {
				test.Fatalf("answer %x: %v", out, err)
			}
			if len(out) > q.size || !m.Response || m.ID != q.header.ID || !slices.Equal(m.Questions, []dnsmessage.Question{q.question}) {
				test.Fatalf("answer %+v of %d bytes to %+v", m, len(out), q)
			}
		}
	})
}
