package upstream

import (
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers on a socket of the loopback address; port 0 chooses one.
func nameServer(t *testing.T, address string, handle dns.HandlerFunc) (host, port string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: handle}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	if host, port, err = net.SplitHostPort(conn.LocalAddr().String()); err != nil {
		t.Fatal(err)
	}
	return host, port
}

// A name server that is down is waited for once, not for each name that the
// search list makes: together they would take longer than a look-up may.
func TestResolverLeavesASilentServer(t *testing.T) {
	var asked atomic.Int64
	silent, port := nameServer(t, "127.0.0.1:0", func(dns.ResponseWriter, *dns.Msg) { asked.Add(1) })
	works, _ := nameServer(t, "127.0.0.2:"+port, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		if q.Question[0].Name == "api.example.com." {
			m.Rcode = dns.RcodeSuccess
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "api.example.com.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
		}
		_ = w.WriteMsg(m)
	})
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+silent+"\nnameserver "+works+"\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &systemResolver{path: conf, port: port, dialer: &net.Dialer{Timeout: 50 * time.Millisecond}}
	addrs, ttl, err := r.Resolve(t.Context(), "api.example.com")
	if err != nil || len(addrs) != 1 || addrs[0].String() != "192.0.2.1" || ttl != time.Minute {
		t.Errorf("%v for %s, %v", addrs, ttl, err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked the silent server %d times", n)
	}
}
