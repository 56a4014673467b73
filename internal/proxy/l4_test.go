package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// speaker greets with its name and echoes; over TLS it has the CA's
// certificate.
func speaker(t *testing.T, name string, conf *tls.Config) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if conf != nil {
					c = tls.Server(c, conf)
				}
				if _, err := io.WriteString(c, name+"\n"); err == nil {
					_, _ = io.Copy(c, c)
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func static(name, address string) *ir.Cluster {
	return &ir.Cluster{Name: name, Type: ir.Static, Breaker: ir.DefaultBreaker(), Endpoints: &ir.EndpointSet{Cluster: name, Endpoints: []ir.Endpoint{{Address: address}}}}
}

func bytesTo(cluster string, match ir.ChainMatch) *ir.FilterChain {
	return &ir.FilterChain{Name: cluster, Match: match, TCP: &ir.TCPProxy{Clusters: []ir.WeightedCluster{{Name: cluster}}, AccessLog: &ir.AccessLog{Path: "a"}}}
}

// TLS goes by server name to where a VirtualService's tls[] sends it, without
// being opened; a name that nobody routes is closed.
func TestServerNamesRouteTLS(t *testing.T) {
	ca := newCA(t)
	conf := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, worker)}}
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		byName := func(names ...string) ir.ChainMatch {
			return ir.ChainMatch{Transport: ir.TransportTLS, ServerNames: names}
		}
		m.snapA.Clusters = append(m.snapA.Clusters, static("exact", speaker(t, "exact", conf)), static("wild", speaker(t, "wild", conf)))
		m.snapA.Listeners = append(m.snapA.Listeners, &ir.Listener{Name: "tls", Address: netip.MustParseAddrPort("127.0.0.2:0"), Direction: ir.Outbound, Bind: true,
			InspectTLS: true, Chains: []*ir.FilterChain{bytesTo("exact", byName("a.example")), bytesTo("wild", byName("*.example"))}})
	})
	addr := m.a.Addr(netip.MustParseAddrPort("127.0.0.2:0")).String()
	for sni, want := range map[string]string{"a.example": "exact", "b.example": "wild", "x.y.example": "wild", "example": "", "other": ""} {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", sni, err)
			}
			continue
		}
		got, _ := bufio.NewReader(c).ReadString('\n')
		if got = strings.TrimSpace(got); got != want {
			t.Errorf("%s: %q, want %q", sni, got, want)
		}
		c.Close()
	}
}

// tcp[] rules with destination subnets are chains by prefix; the most specific
// takes the connection.
func TestDestinationSubnetsRouteTCP(t *testing.T) {
	for dst, want := range map[string]string{"127.0.0.0/8": "near", "127.0.0.0/31": "far", "10.0.0.0/8": "far"} {
		m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
			m.snapA.Clusters = append(m.snapA.Clusters, static("near", speaker(t, "near", nil)), static("far", speaker(t, "far", nil)))
			m.snapA.Listeners = append(m.snapA.Listeners, &ir.Listener{Name: "tcp", Address: netip.MustParseAddrPort("127.0.0.2:0"), Direction: ir.Outbound, Bind: true,
				Chains: []*ir.FilterChain{bytesTo("near", ir.ChainMatch{Prefixes: []netip.Prefix{netip.MustParsePrefix(dst)}}), bytesTo("far", ir.ChainMatch{})}})
		})
		c, err := net.Dial("tcp", m.a.Addr(netip.MustParseAddrPort("127.0.0.2:0")).String())
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := bufio.NewReader(c).ReadString('\n'); strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, want %s", dst, got, want)
		}
		c.Close()
	}
}
