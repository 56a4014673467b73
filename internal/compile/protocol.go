package compile

import (
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// protocol of a service port, as far as compiling differs.
type protocol int

const (
	protoAuto  protocol = iota // not said: sniff
	protoHTTP                  // HTTP/1.1
	protoHTTP2                 // HTTP/2, gRPC
	protoTLS                   // TLS that the proxy does not open: routed by SNI
	protoTCP
	protoUDP // not redirected, as in Istio
)

// String is the protocol as Istio's users write it; "auto" is found out by
// sniffing.
func (p protocol) String() string {
	return [...]string{protoAuto: "auto", protoHTTP: "HTTP", protoHTTP2: "HTTP2", protoTLS: "TLS", protoTCP: "TCP", protoUDP: "UDP"}[p]
}

// isHTTP: requests are routed one by one. A sniffed port is not; it has a
// chain for each outcome.
func (p protocol) isHTTP() bool { return p == protoHTTP || p == protoHTTP2 }

// opaque: connections are routed whole.
func (p protocol) opaque() bool { return p == protoTCP || p == protoTLS }

// serverFirst are ports on which the server speaks first by custom (SMTP, DNS,
// MySQL, MongoDB): where nothing was said, sniffing would only delay them.
var serverFirst = []uint16{25, 53, 3306, 27017}

// parseProtocol follows Istio's protocol selection (X6): the word before the
// first dash of a port's name, or all of appProtocol and of a protocol field.
// What it does not know is found out by sniffing.
func parseProtocol(name string, port uint16) protocol {
	word := strings.ToLower(name)
	switch word {
	case "kubernetes.io/h2c":
		return protoHTTP2
	case "kubernetes.io/ws":
		return protoHTTP
	case "kubernetes.io/wss":
		return protoTLS
	}
	if strings.HasPrefix(word, "grpc-web") {
		return protoHTTP2
	}
	word, _, _ = strings.Cut(word, "-")
	switch word {
	case "http":
		return protoHTTP
	case "http2", "grpc":
		return protoHTTP2
	case "https", "tls":
		return protoTLS
	case "tcp", "redis", "mongo", "mysql":
		return protoTCP
	case "udp":
		return protoUDP
	}
	if slices.Contains(serverFirst, port) {
		return protoTCP
	}
	return protoAuto
}

// upstreamProtocol is what a cluster of the port speaks (ir.HTTPUpstream).
func (p protocol) upstreamProtocol() string {
	switch p {
	case protoHTTP2:
		return ir.HTTP2
	case protoAuto:
		return ir.DownstreamProtocol
	}
	return ""
}

// meshALPN is what a client of the mesh offers to the port's instances. For a
// sniffed port that is what its connections offer; requests on it offer
// ir.MeshALPN of their own protocol.
func (p protocol) meshALPN() []string {
	switch p {
	case protoHTTP:
		return ir.MeshALPN(false)
	case protoHTTP2:
		return ir.MeshALPN(true)
	}
	return []string{"istio"}
}

// Application protocols that chains ask for. Istio's clients say by ALPN what
// they carry: how PERMISSIVE tells their TLS from the application's own, and a
// sniffed port requests from bytes.
var (
	istioALPN     = []string{"istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"}
	istioHTTPALPN = []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"}
	// plainHTTP is what the HTTP inspector finds in cleartext.
	plainHTTP = []string{"http/1.0", "http/1.1", "h2c"}
	// servedALPN is what an inbound HTTP chain agrees to, best first.
	servedALPN = []string{"istio-h2", "h2", "istio-http/1.1", "istio-http/1.0", "http/1.1", "istio", "istio-peer-exchange"}
)

// inspectTimeout is how long a connection may stay silent before it goes on as
// bytes, so that protocols in which the server speaks first work on sniffed
// ports too. Istio's default of 0 would wait for ever.
func (b *builder) inspectTimeout() ir.Duration {
	if d := b.mesh.GetProtocolDetectionTimeout().AsDuration(); d > 0 {
		return ir.Duration(d)
	}
	return ir.Duration(5 * time.Second)
}
