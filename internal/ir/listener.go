package ir

import "net/netip"

// Direction is which way traffic flows through a listener, seen from the workload.
type Direction string

const (
	Inbound  Direction = "inbound"
	Outbound Direction = "outbound" // a gateway's listeners are outbound too, as in Istio
)

// Listener accepts connections. As in Envoy, only a listener with Bind opens a
// socket; the others receive connections that a listener with UseOriginalDst
// hands over: first by exact Address, then by port on the wildcard address,
// then the receiving listener keeps them itself.
type Listener struct {
	Name           string         `json:"name"`
	Address        netip.AddrPort `json:"address"`
	Direction      Direction      `json:"direction"`
	Bind           bool           `json:"bind,omitempty"`
	UseOriginalDst bool           `json:"useOriginalDst,omitempty"`
	// InspectTLS and InspectHTTP: read the first bytes to fill in
	// transport protocol, SNI and ALPN, or HTTP/1 against HTTP/2, before a
	// chain is chosen. InspectTimeout bounds that wait; when it passes with
	// ContinueOnInspectTimeout the connection goes on as raw bytes.
	InspectTLS               bool     `json:"inspectTLS,omitempty"`
	InspectHTTP              bool     `json:"inspectHTTP,omitempty"`
	InspectTimeout           Duration `json:"inspectTimeout,omitempty"`
	ContinueOnInspectTimeout bool     `json:"continueOnInspectTimeout,omitempty"`
	// Chains are tried in Envoy's order of specificity (port, address, SNI,
	// transport, ALPN), not in list order. Default takes what none matches; a
	// connection without chain is closed with flag NR.
	Chains  []*FilterChain `json:"chains,omitempty"`
	Default *FilterChain   `json:"default,omitempty"`
	// DNS makes the listener a name server, over UDP and TCP; then it has no
	// chains.
	DNS    *DNS   `json:"dns,omitempty"`
	Origin Origin `json:"origin,omitzero"`
}

// DNS is what a sidecar's name server knows; it asks the workload's own name
// servers for the rest.
type DNS struct {
	// Search are the suffixes that the workload's resolver tries on a name, so
	// that "api.example.com.shop.svc.cluster.local" is known for what it is.
	Search []string `json:"search,omitempty"`
	Names  []Name   `json:"names,omitempty"`
}

// Name is a host, or "*.suffix", in lower case and without a dot at its end.
type Name struct {
	Host      string       `json:"host"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// FilterChain says how one kind of connection is served.
type FilterChain struct {
	Name  string         `json:"name"`
	Match ChainMatch     `json:"match,omitzero"`
	TLS   *DownstreamTLS `json:"tls,omitempty"`
	// Filters run in order on every connection (TCP) or request (HTTP).
	Filters []Filter `json:"filters,omitempty"`
	// Exactly one of HTTP and TCP is set.
	HTTP   *HTTP     `json:"http,omitempty"`
	TCP    *TCPProxy `json:"tcp,omitempty"`
	Origin Origin    `json:"origin,omitzero"`
}

// Transport protocols a ChainMatch can ask for.
const (
	TransportTLS = "tls"
	TransportRaw = "raw_buffer"
)

// ChainMatch: empty fields match everything.
type ChainMatch struct {
	Port        uint16         `json:"port,omitempty"` // original destination port
	Prefixes    []netip.Prefix `json:"prefixes,omitempty"`
	ServerNames []string       `json:"serverNames,omitempty"` // exact, or "*.suffix"
	Transport   string         `json:"transport,omitempty"`
	// ALPN: TLS application protocols, or, where InspectHTTP ran on cleartext,
	// "http/1.0", "http/1.1" and "h2c".
	ALPN []string `json:"alpn,omitempty"`
}

// DownstreamTLS is how a listener presents itself.
type DownstreamTLS struct {
	// Secret names the certificate: "default" is the workload's SVID, anything
	// else is a gateway credential delivered as a secret.
	Secret string `json:"secret,omitempty"`
	// MoreSecrets are further certificates (RSA beside ECDSA); Files are used
	// where no secret is named. What the client can verify decides between them.
	MoreSecrets []string    `json:"moreSecrets,omitempty"`
	Files       []CertFiles `json:"files,omitempty"`
	// RequireClientCert makes it mutual, OptionalClientCert checks a certificate
	// that the client shows; ValidationSecret names the trust bundle ("ROOTCA" is
	// the mesh's), or else CAFile is it.
	RequireClientCert  bool     `json:"requireClientCert,omitempty"`
	OptionalClientCert bool     `json:"optionalClientCert,omitempty"`
	ValidationSecret   string   `json:"validationSecret,omitempty"`
	CAFile             string   `json:"caFile,omitempty"`
	CRLFile            string   `json:"crlFile,omitempty"`
	SANs               []Match  `json:"sans,omitempty"`   // peer SAN must match one; empty = any that the bundle vouches for
	SPKI               []string `json:"spki,omitempty"`   // base64 SHA-256 of the public key; one of these or of Hashes must be the peer's
	Hashes             []string `json:"hashes,omitempty"` // hex SHA-256 of the certificate
	ALPN               []string `json:"alpn,omitempty"`
	MinVersion         string   `json:"minVersion,omitempty"` // "1.2" (default) or "1.3"
	MaxVersion         string   `json:"maxVersion,omitempty"`
	CipherSuites       []string `json:"cipherSuites,omitempty"` // OpenSSL's names, for TLS 1.2
	Curves             []string `json:"curves,omitempty"`       // of the key exchange: "P-256", "X25519"…; empty: the default
}

// CertFiles are PEM files on the proxy's machine.
type CertFiles struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Names of the secrets every sidecar has without being told (Istio's SDS names).
const (
	SecretWorkload = "default"
	SecretRootCA   = "ROOTCA"
)

// HTTP is Envoy's HTTP connection manager, as far as Istio uses it.
type HTTP struct {
	StatPrefix string `json:"statPrefix,omitempty"`
	// RouteTable names the table (RDS); a table that has not arrived answers 404 NR.
	RouteTable string `json:"routeTable"`
	// ForwardClientCert is what becomes of x-forwarded-client-cert (Envoy's
	// forward_client_cert_details): "" or "sanitize", "forwardOnly", "appendForward",
	// "sanitizeSet", "alwaysForwardOnly". WholeClientCert puts the certificate
	// itself into what is added.
	ForwardClientCert string   `json:"forwardClientCert,omitempty"`
	WholeClientCert   bool     `json:"wholeClientCert,omitempty"`
	UseRemoteAddress  bool     `json:"useRemoteAddress,omitempty"` // gateways: append the peer to x-forwarded-for
	TrustedHops       int      `json:"trustedHops,omitempty"`
	ServerName        string   `json:"serverName,omitempty"`  // "server" header of local answers; default istio-envoy
	IdleTimeout       Duration `json:"idleTimeout,omitempty"` // connection without a request; default 1h
	Upgrades          []string `json:"upgrades,omitempty"`    // lower case, "websocket"
	// AccessLog and Tracing: what is recorded.
	AccessLog *AccessLog `json:"accessLog,omitempty"`
	Tracing   *Tracing   `json:"tracing,omitempty"`
	// PathNormalization: "" or BASE, NONE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES.
	PathNormalization string `json:"pathNormalization,omitempty"`
}

// AccessLog: where and how. Path is a file or /dev/stdout; Format "" is Istio's default text.
type AccessLog struct {
	Path   string            `json:"path"`
	JSON   bool              `json:"json,omitempty"`
	Format string            `json:"format,omitempty"`
	Fields map[string]string `json:"fields,omitempty"` // for JSON: label → Envoy command operator
}

// Tracing: the share of requests without a decision of their own that are sampled.
type Tracing struct {
	SamplingPercent float64 `json:"samplingPercent"`
}

// TCPProxy forwards bytes.
type TCPProxy struct {
	StatPrefix  string            `json:"statPrefix,omitempty"`
	Clusters    []WeightedCluster `json:"clusters"`
	IdleTimeout Duration          `json:"idleTimeout,omitempty"` // default 1h; negative: never
	MaxDuration Duration          `json:"maxDuration,omitempty"` // of a connection; 0: no limit
	AccessLog   *AccessLog        `json:"accessLog,omitempty"`
	// HashSourceIP feeds ring hash and maglev with the downstream's address.
	HashSourceIP bool `json:"hashSourceIP,omitempty"`
	// Tunnel carries the connection through an HTTP CONNECT to the upstream; nil:
	// bytes as they are.
	Tunnel *Tunnel `json:"tunnel,omitempty"`
}

// Tunnel asks the upstream, a forward proxy, to connect to Target (host:port).
type Tunnel struct {
	Target string `json:"target"`
	Origin Origin `json:"origin,omitzero"`
}
