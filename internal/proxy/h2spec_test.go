package proxy

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/h2spec"
)

// The listeners of a pair keep to HTTP/2 as h2spec checks it: the outbound one
// in cleartext by prior knowledge, the inbound one over TLS by ALPN.
func TestH2Spec(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // an early answer ends streams before h2spec has done with them
		w.Write([]byte("answer"))
	})
	m, _ := newMeshOver(t, hops{"http2", "http2", "http2"}, app, func(m *mesh) {
		tls := m.snapB.Listeners[0].Chains[0].TLS
		tls.RequireClientCert = false // h2spec has no certificate
		tls.ALPN = append([]string{"h2"}, tls.ALPN...)
	})
	t.Run("outbound", func(t *testing.T) {
		h2spec.Run(t, h2spec.Options{Addr: strings.TrimPrefix(m.url, "http://"), Known: map[string]string{
			"http2/3.5/2": "the listener speaks HTTP/1.1 too, and answers what is no preface as that",
		}})
	})
	t.Run("inbound", func(t *testing.T) {
		h2spec.Run(t, h2spec.Options{Addr: m.b.Addr(netip.MustParseAddrPort(listenAddr)).String(), TLS: true})
	})
}
