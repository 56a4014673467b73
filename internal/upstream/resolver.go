package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// systemResolver asks the servers of /etc/resolv.conf, with the search list
// there; names of /etc/hosts are answered by the system's own look-up. It
// exists because Go's resolver does not tell how long an answer is valid.
type systemResolver struct {
	path   string // of resolv.conf
	port   string // of the servers
	dialer *net.Dialer
}

const hostsTTL = time.Minute // of an answer from /etc/hosts

func newSystemResolver(mark int) *systemResolver {
	d := &net.Dialer{Timeout: 2 * time.Second}
	if mark != 0 {
		d.Control = func(_, _ string, rc syscall.RawConn) error {
			var err error
			if ctl := rc.Control(func(fd uintptr) { err = setMark(int(fd), mark) }); ctl != nil {
				return ctl
			}
			return err
		}
	}
	return &systemResolver{path: "/etc/resolv.conf", port: "53", dialer: d}
}

// Resolve implements Resolver.
func (r *systemResolver) Resolve(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	conf, err := dns.ClientConfigFromFile(r.path)
	if err != nil {
		return nil, 0, err
	}
	var failed error
	for _, full := range conf.NameList(name) {
		addrs, ttl, err := r.both(ctx, conf, full)
		switch {
		case err != nil:
			failed = err
		case len(addrs) > 0:
			return addrs, ttl, nil
		}
	}
	local := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("only /etc/hosts is asked here")
	}}
	if addrs, err := local.LookupNetIP(ctx, "ip", name); err == nil && len(addrs) > 0 {
		for i := range addrs {
			addrs[i] = addrs[i].Unmap()
		}
		return addrs, hostsTTL, nil
	}
	return nil, 0, failed
}

// both asks for A and AAAA records; IPv4 wins where there are both, as Envoy's
// default family does in Istio (V4_PREFERRED).
func (r *systemResolver) both(ctx context.Context, conf *dns.ClientConfig, name string) ([]netip.Addr, time.Duration, error) {
	addrs, ttl, err := r.ask(ctx, conf, name, dns.TypeA)
	if err != nil || len(addrs) > 0 {
		return addrs, ttl, err
	}
	return r.ask(ctx, conf, name, dns.TypeAAAA)
}

// ask puts one question to one server after the other. Who answers is asked
// first from then on: one that is down costs its timeout once.
func (r *systemResolver) ask(ctx context.Context, conf *dns.ClientConfig, name string, kind uint16) ([]netip.Addr, time.Duration, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	var failed error
	for i, server := range conf.Servers {
		address := net.JoinHostPort(server, r.port)
		client := &dns.Client{Dialer: r.dialer}
		m, _, err := client.ExchangeContext(ctx, q, address)
		if err == nil && m.Truncated {
			client.Net = "tcp"
			m, _, err = client.ExchangeContext(ctx, q, address)
		}
		switch {
		case err != nil:
			failed = err
			continue
		case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
			failed = fmt.Errorf("%s: name server %s answers %s", name, server, dns.RcodeToString[m.Rcode])
			continue
		}
		conf.Servers[0], conf.Servers[i] = server, conf.Servers[0]
		if m.Rcode == dns.RcodeNameError {
			return nil, 0, nil
		}
		addrs, ttl := answers(m)
		return addrs, ttl, nil
	}
	if failed == nil {
		failed = errors.New("no name server is configured")
	}
	return nil, 0, failed
}

// answers takes the addresses out; the shortest TTL counts.
func answers(m *dns.Msg) (addrs []netip.Addr, ttl time.Duration) {
	ttl = maxDNSRefresh
	for _, rr := range m.Answer {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs, ttl
}
