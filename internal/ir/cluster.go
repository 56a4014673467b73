package ir

import "net/netip"

// ClusterType is where a cluster's endpoints come from.
type ClusterType string

const (
	EDS         ClusterType = "EDS"          // an EndpointSet of the same name
	Static      ClusterType = "STATIC"       // endpoints inline, in Endpoints
	OriginalDst ClusterType = "ORIGINAL_DST" // the connection's own original destination
	StrictDNS   ClusterType = "STRICT_DNS"   // every address that the names in Endpoints resolve to
	LogicalDNS  ClusterType = "LOGICAL_DNS"  // one address at a time of each name in Endpoints
)

// Special clusters every sidecar has.
const (
	BlackHoleCluster   = "BlackHoleCluster"
	PassthroughCluster = "PassthroughCluster"
	InboundPassthrough = "InboundPassthroughCluster"
)

// Cluster is an upstream service (or one subset of it) and how to talk to it.
// Names are Istio's: "outbound|8000|v1|worker.researchflow.svc.cluster.local",
// "inbound|8000||".
type Cluster struct {
	Name           string       `json:"name"`
	Type           ClusterType  `json:"type"`
	Endpoints      *EndpointSet `json:"endpoints,omitempty"` // Static, StrictDNS and LogicalDNS
	ConnectTimeout Duration     `json:"connectTimeout,omitempty"`
	LB             LBPolicy     `json:"lb,omitempty"`
	// Hash sizes what RingHash and Maglev look up; nil is their defaults.
	Hash *HashLB `json:"hash,omitempty"`
	// LocalityWeighted: inside a priority a locality is drawn by
	// Endpoint.LocalityWeight first, then an endpoint of it.
	LocalityWeighted bool `json:"localityWeighted,omitempty"`
	// ZoneAware prefers the proxy's own zone as far as the endpoints there can
	// carry their share; nil: off.
	ZoneAware *ZoneAware `json:"zoneAware,omitempty"`
	// Warmup raises the share of a new endpoint slowly (RoundRobin and
	// LeastRequest); nil: off.
	Warmup  *Warmup  `json:"warmup,omitempty"`
	Breaker Breaker  `json:"breaker,omitzero"`
	Outlier *Outlier `json:"outlier,omitempty"`
	// RetryBudget replaces Breaker.MaxRetries; nil: off.
	RetryBudget *RetryBudget `json:"retryBudget,omitempty"`
	// DNSRefresh is how soon a name that did not resolve is asked for again;
	// an answer is kept for its TTL. Default 5s (Envoy's).
	DNSRefresh Duration `json:"dnsRefresh,omitempty"`
	// TLS is used for every endpoint; AutoTLS only for those with Endpoint.TLS
	// (auto-mTLS: the others get plaintext). At most one is set.
	TLS     *UpstreamTLS `json:"tls,omitempty"`
	AutoTLS *UpstreamTLS `json:"autoTLS,omitempty"`
	// ProxyProtocol announces the downstream's addresses to the upstream before
	// anything else: "V1", "V2" or "" for not at all.
	ProxyProtocol string       `json:"proxyProtocol,omitempty"`
	HTTP          HTTPUpstream `json:"http,omitzero"`
	// TCPKeepalive nil: off.
	TCPKeepalive *Keepalive `json:"tcpKeepalive,omitempty"`
	// BindSource: local address of connections (127.0.0.6 for inbound clusters,
	// so that redirection rules can tell them from the application's own).
	BindSource netip.Addr `json:"bindSource,omitzero"`
	// Telemetry: who is called, as the standard metrics name it.
	Service     ServiceRef `json:"service,omitzero"`
	Origin      Origin     `json:"origin,omitzero"`      // the Service or ServiceEntry
	PolicyFrom  Origin     `json:"policyFrom,omitzero"`  // the DestinationRule
	SubsetFrom  Origin     `json:"subsetFrom,omitzero"`  // line of the subset
	OutlierFrom Origin     `json:"outlierFrom,omitzero"` // line of outlierDetection
}

// ServiceRef names the destination service.
type ServiceRef struct {
	Host      string `json:"host,omitempty"` // FQDN
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Port      uint16 `json:"port,omitempty"`
	Subset    string `json:"subset,omitempty"`
}

// LBPolicy names follow Envoy.
type LBPolicy string

const (
	LeastRequest    LBPolicy = "LEAST_REQUEST" // default
	RoundRobin      LBPolicy = "ROUND_ROBIN"
	Random          LBPolicy = "RANDOM"
	RingHash        LBPolicy = "RING_HASH"
	Maglev          LBPolicy = "MAGLEV"
	ClusterProvided LBPolicy = "CLUSTER_PROVIDED" // original destination
)

// Bounds of hash load balancing (Envoy's).
const (
	DefaultRingSize    = 1024
	MaxRingSize        = 8 << 20
	DefaultMaglevTable = 65537
	MaxMaglevTable     = 5000011
)

// HashLB sizes consistent hashing; 0 is the default.
type HashLB struct {
	MinRingSize uint64 `json:"minRingSize,omitempty"` // entries at least, default 1024
	TableSize   uint64 `json:"tableSize,omitempty"`   // of maglev, a prime; default 65537
}

// ZoneAware is Envoy's zone aware routing. It looks at the sizes of the proxy's
// own service per zone to know its zone's share of the callers.
type ZoneAware struct {
	MinClusterSize uint64 `json:"minClusterSize"` // below: off. default 6
	// Locality is the proxy's own (region/zone/subzone), Callers the number of
	// instances of its own service per locality.
	Locality string            `json:"locality"`
	Callers  map[string]uint32 `json:"callers,omitempty"`
}

// Warmup (Envoy's slow start): for Duration after it came, an endpoint's weight
// is scaled by max(MinPercent/100, (age/Duration)^(1/Aggression)).
type Warmup struct {
	Duration   Duration `json:"duration"`
	MinPercent float64  `json:"minPercent"` // default 10
	Aggression float64  `json:"aggression"` // default 1: linear
}

// RetryBudget limits retries in flight to Percent of the requests, and allows
// MinConcurrency whatever their number. Interval 0 counts the requests in
// flight, otherwise those begun within it too.
type RetryBudget struct {
	Percent        float64  `json:"percent"`        // default 20
	MinConcurrency uint32   `json:"minConcurrency"` // default 3
	Interval       Duration `json:"interval,omitempty"`
}

// Unlimited is Istio's default for every circuit breaker threshold.
const Unlimited uint32 = 1<<32 - 1

// Breaker holds the limits of one proxy towards one cluster (Envoy's DEFAULT
// priority). Zero means zero: compile writes Unlimited where nothing was set.
type Breaker struct {
	MaxConnections     uint32 `json:"maxConnections"`
	MaxPendingRequests uint32 `json:"maxPendingRequests"`
	MaxRequests        uint32 `json:"maxRequests"`
	MaxRetries         uint32 `json:"maxRetries"`
}

// DefaultBreaker is no limit at all, as Istio configures Envoy.
func DefaultBreaker() Breaker { return Breaker{Unlimited, Unlimited, Unlimited, Unlimited} }

// Outlier is passive health checking: ejection by what requests show.
type Outlier struct {
	Consecutive5xx     uint32   `json:"consecutive5xx"`               // 0: off. default 5
	ConsecutiveGateway uint32   `json:"consecutiveGateway,omitempty"` // 502, 503, 504; 0: off
	ConsecutiveLocal   uint32   `json:"consecutiveLocal,omitempty"`   // only with SplitLocal; default 5
	SplitLocal         bool     `json:"splitLocal,omitempty"`
	Interval           Duration `json:"interval"`           // default 10s
	BaseEjection       Duration `json:"baseEjection"`       // default 30s, times the number of ejections
	MaxEjection        Duration `json:"maxEjection"`        // default 300s
	MaxEjectionPercent uint32   `json:"maxEjectionPercent"` // default 10; one host may always be ejected
	// MinHealthPercent is the panic threshold: with fewer usable hosts than
	// this, all of a priority take requests. 0: never.
	MinHealthPercent uint32 `json:"minHealthPercent,omitempty"`
	// Codes are the statuses that count as errors; empty: 500 and up.
	Codes []uint32 `json:"codes,omitempty"`
}

// Protocols of HTTPUpstream.
const (
	HTTP1              = "http1" // or ""
	HTTP2              = "http2" // over plaintext with prior knowledge (h2c)
	DownstreamProtocol = "downstream"
)

// MeshALPN is what a mesh client offers over mutual TLS when it carries
// requests of HTTP/2 or of HTTP/1.1, best first: how the server's proxy knows
// them (what Istio's alpn filter sets). In a cluster of DownstreamProtocol it
// replaces UpstreamTLS.ALPN for requests.
func MeshALPN(http2 bool) []string {
	if http2 {
		return []string{"istio-h2", "istio", "h2"}
	}
	return []string{"istio-http/1.1", "istio", "http/1.1"}
}

// HTTPUpstream limits connections that carry HTTP.
type HTTPUpstream struct {
	Protocol           string `json:"protocol,omitempty"` // "" is HTTP1
	MaxRequestsPerConn uint32 `json:"maxRequestsPerConn,omitempty"`
	// IdleTimeout closes a connection without a request; nil is 1h, 0 never.
	IdleTimeout           *Duration `json:"idleTimeout,omitempty"`
	MaxConnectionDuration Duration  `json:"maxConnectionDuration,omitempty"`
	MaxConcurrentStreams  uint32    `json:"maxConcurrentStreams,omitempty"`
	// HTTP2KeepAlive sends PINGs on HTTP/2 connections; nil: none.
	HTTP2KeepAlive *HTTP2KeepAlive `json:"http2KeepAlive,omitempty"`
}

// HTTP2KeepAlive: a PING every Interval; without an answer within Timeout the
// connection is closed.
type HTTP2KeepAlive struct {
	Interval Duration `json:"interval"`
	Timeout  Duration `json:"timeout"`
}

// Keepalive is TCP keepalive; 0 is the kernel's default.
type Keepalive struct {
	Probes   uint32   `json:"probes,omitempty"`
	Time     Duration `json:"time,omitempty"`
	Interval Duration `json:"interval,omitempty"`
}

// UpstreamTLS is how a proxy dials.
type UpstreamTLS struct {
	Mode             string   `json:"mode"`                       // SIMPLE, MUTUAL, ISTIO_MUTUAL
	Secret           string   `json:"secret,omitempty"`           // own certificate; "default" for ISTIO_MUTUAL
	ValidationSecret string   `json:"validationSecret,omitempty"` // trust bundle; "ROOTCA" for ISTIO_MUTUAL
	CAFile           string   `json:"caFile,omitempty"`           // "system": the machine's own bundle
	CRLFile          string   `json:"crlFile,omitempty"`
	CertFile         string   `json:"certFile,omitempty"`
	KeyFile          string   `json:"keyFile,omitempty"`
	SNI              string   `json:"sni,omitempty"`
	SANs             []Match  `json:"sans,omitempty"`
	ALPN             []string `json:"alpn,omitempty"`
	SkipVerify       bool     `json:"skipVerify,omitempty"`
	MinVersion       string   `json:"minVersion,omitempty"`   // "1.2" (default) or "1.3"
	CipherSuites     []string `json:"cipherSuites,omitempty"` // OpenSSL's names, for TLS 1.2
	Curves           []string `json:"curves,omitempty"`       // of the key exchange; empty: the default
	Origin           Origin   `json:"origin,omitzero"`
}

// EndpointSet are the endpoints of one cluster.
type EndpointSet struct {
	Cluster   string     `json:"cluster"`
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// Health of an endpoint as its source reports it.
type Health string

const (
	Healthy   Health = "" // the usual case prints nothing
	Unhealthy Health = "UNHEALTHY"
	Draining  Health = "DRAINING"
)

// Endpoint is one address that can take connections. Workload tells whose it
// is, for telemetry and explain.
type Endpoint struct {
	Address  string `json:"address"` // ip:port, host:port in a StrictDNS or LogicalDNS cluster, or unix:/path
	Weight   uint32 `json:"weight,omitempty"`
	Health   Health `json:"health,omitempty"`
	TLS      bool   `json:"tls,omitempty"` // has a sidecar: auto-mTLS applies
	Locality string `json:"locality,omitempty"`
	Priority uint32 `json:"priority,omitempty"`
	// LocalityWeight is the weight of the endpoint's locality in its priority,
	// the same for all endpoints of both.
	LocalityWeight uint32      `json:"localityWeight,omitempty"`
	Workload       WorkloadRef `json:"workload,omitzero"`
}

// WorkloadRef is what the standard metrics say of a peer.
type WorkloadRef struct {
	Workload          string `json:"workload,omitempty"` // Deployment name
	Instance          string `json:"instance,omitempty"` // pod name
	Namespace         string `json:"namespace,omitempty"`
	Principal         string `json:"principal,omitempty"` // spiffe://…
	App               string `json:"app,omitempty"`
	Version           string `json:"version,omitempty"`
	CanonicalService  string `json:"canonicalService,omitempty"`
	CanonicalRevision string `json:"canonicalRevision,omitempty"`
	ClusterID         string `json:"clusterId,omitempty"`
}
