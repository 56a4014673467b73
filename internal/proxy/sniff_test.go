package proxy

import (
	"bytes"
	"crypto/tls"
	"net"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// clientHello is what crypto/tls sends first.
func clientHello(t testing.TB, conf *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		tls.Client(client, conf).Handshake() // fails when the other end closes
		client.Close()
	}()
	buf := make([]byte, sniffBuffer)
	n, err := server.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestSniffing(t *testing.T) {
	withNames := clientHello(t, &tls.Config{ServerName: "API.example.com", NextProtos: []string{"istio-h2", "istio"}, InsecureSkipVerify: true})
	bare := clientHello(t, &tls.Config{InsecureSkipVerify: true})
	cases := []struct {
		name  string
		bytes []byte
		state sniffState
		want  hello
	}{
		{"HTTP/1.1", []byte("GET / HTTP/1.1\r\n"), decided, hello{transport: ir.TransportRaw, alpn: []string{"http/1.1"}}},
		{"HTTP/1.0, bare line feed", []byte("HEAD /a HTTP/1.0\n"), decided, hello{transport: ir.TransportRaw, alpn: []string{"http/1.0"}}},
		{"extension method", []byte("M-SEARCH * HTTP/1.1\r\n"), decided, hello{transport: ir.TransportRaw, alpn: []string{"http/1.1"}}},
		{"HTTP/2 preface", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00"), decided, hello{transport: ir.TransportRaw, alpn: []string{"h2c"}}},
		{"half a preface", []byte("PRI * HTTP/2.0\r\n"), undecided, hello{transport: ir.TransportRaw}},
		{"a method that begins like the preface", []byte("PROPFIND / HTTP/1.1\r\n"), decided, hello{transport: ir.TransportRaw, alpn: []string{"http/1.1"}}},
		{"half a request line", []byte("GET /"), undecided, hello{transport: ir.TransportRaw}},
		{"a line that is no request", []byte("EHLO mail\r\n"), decided, hello{transport: ir.TransportRaw}},
		{"binary", []byte{0, 0, 0, 8, 4, 210, 22, 47}, decided, hello{transport: ir.TransportRaw}},
		{"TLS with names", withNames, decided, hello{transport: ir.TransportTLS, serverName: "api.example.com", alpn: []string{"istio-h2", "istio"}}},
		{"TLS without names", bare, decided, hello{transport: ir.TransportTLS}},
		{"half a ClientHello", withNames[:40], undecided, hello{transport: ir.TransportRaw}},
		{"a handshake record that is no TLS", []byte{22, 9, 9, 0, 5, 1}, decided, hello{transport: ir.TransportRaw}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := &listener{Listener: &ir.Listener{InspectTLS: true, InspectHTTP: true}}
			got := hello{transport: ir.TransportRaw}
			if state := sniffing(c.bytes, l, &got); state != c.state {
				t.Errorf("state %v, want %v", state, c.state)
			}
			if got.transport != c.want.transport || got.serverName != c.want.serverName || !slices.Equal(got.alpn, c.want.alpn) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// FuzzClientHello: no bytes may make the parser read out of bounds, find names
// in what is no TLS, or change its mind when more bytes follow.
func FuzzClientHello(f *testing.F) {
	whole := clientHello(f, &tls.Config{ServerName: "a.example.com", NextProtos: []string{"h2", "http/1.1"}, InsecureSkipVerify: true})
	f.Add(whole)
	f.Add(whole[:60])
	f.Add([]byte{22, 3, 1, 0, 4, 1, 0, 0, 0})
	f.Add([]byte{22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3})
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		done, ok := parseClientHello(b, &h)
		if ok && !done {
			t.Fatal("recognized without being done")
		}
		if !ok && (h.serverName != "" || h.alpn != nil) {
			t.Fatalf("names %+v in what is no ClientHello", h)
		}
		if len(h.serverName) > 255 || len(h.alpn) > 32 {
			t.Fatalf("limits exceeded: %d, %d", len(h.serverName), len(h.alpn))
		}
		if done {
			var again hello
			if d, o := parseClientHello(append(bytes.Clone(b), 0), &again); d != done || o != ok || again.serverName != h.serverName {
				t.Fatal("another byte changed the decision")
			}
		}
	})
}
