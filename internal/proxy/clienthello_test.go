package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// recorded is a connection that gives what it has and keeps what it is told.
type recorded struct {
	net.Conn // nothing else is called
	in       *bytes.Reader
	out      bytes.Buffer
}

func (r *recorded) Read(b []byte) (int, error) {
	if r.in == nil {
		return 0, io.EOF
	}
	return r.in.Read(b)
}
func (r *recorded) Write(b []byte) (int, error) { return r.out.Write(b) }
func (r *recorded) Close() error                { return nil }

// firstBytes is what crypto/tls sends first.
func firstBytes(serverName string, alpn ...string) []byte {
	c := &recorded{}
	_ = tls.Client(c, &tls.Config{ServerName: serverName, NextProtos: alpn, InsecureSkipVerify: true}).Handshake() // nobody answers
	return c.out.Bytes()
}

// readByTLS is what crypto/tls reads out of the same bytes; ok: it takes them
// for a ClientHello.
func readByTLS(b []byte) (name string, alpn []string, ok bool) {
	c := &recorded{in: bytes.NewReader(b)}
	_ = tls.Server(c, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, alpn, ok = h.ServerName, h.SupportedProtos, true
		return nil, io.EOF
	}}).Handshake()
	return name, alpn, ok
}

// FuzzServerNames holds the parser to crypto/tls: where that reads a hello in
// one record, we read the same names.
func FuzzServerNames(f *testing.F) {
	f.Add(firstBytes("api.example.com"))
	f.Add(firstBytes("api.example.com", "h2", "http/1.1"))
	f.Add(firstBytes("", "istio-peer-exchange", "istio"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] != 22 {
			return // the caller has looked at the first byte
		}
		var whole hello
		done, ok := parseClientHello(b, &whole)
		name, alpn, read := readByTLS(b)
		if !read || !done || len(alpn) > 32 || len(name) > 255 || spread(b) {
			return
		}
		if !ok || whole.serverName != strings.ToLower(name) || !slices.Equal(whole.alpn, alpn) {
			t.Fatalf("read %v %q %q, crypto/tls %q %q", ok, whole.serverName, whole.alpn, name, alpn)
		}
	})
}

// spread: the hello goes on in a second record, where we do not look.
func spread(b []byte) bool {
	record := int(b[3])<<8 | int(b[4])
	return len(b) < 9 || int(b[6])<<16|int(b[7])<<8|int(b[8])+4 > record
}
