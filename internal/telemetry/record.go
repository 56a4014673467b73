package telemetry

import "time"

// Headers looks up a header by lower-case name.
type Headers interface {
	Get(name string) (string, bool)
}

// Protocols of a Record, as %PROTOCOL% prints them.
const (
	HTTP10 = "HTTP/1.0"
	HTTP11 = "HTTP/1.1"
	HTTP2  = "HTTP/2"
)

// MaxTries is how many tries a Record keeps; later ones are counted only.
const MaxTries = 16

// Try is one attempt of a request: a response's Status, or Flags that say why
// there was none.
type Try struct {
	Host     string
	Status   int
	Flags    Flags
	Duration time.Duration
}

// Record is what is known of one request (or, with Method empty, one TCP
// connection) when it ends. Strings may alias buffers of the connection: the
// record is consumed before they are reused, and nothing in it is kept.
type Record struct {
	Start    time.Time
	Duration time.Duration

	Protocol  string
	Method    string
	Path      string // as it arrived, with query
	Authority string
	Request   Headers
	Response  Headers // nil without a response

	Status      int // 0: no response
	Flags       Flags
	Details     string // response code details, as Envoy names them
	Termination string // connection termination details
	Failure     string // upstream transport failure reason

	BytesReceived, BytesSent int64 // bodies for HTTP, everything for TCP
	UpstreamTime             time.Duration
	HasUpstreamTime          bool
	Attempts                 int
	// Tries are the tries of a request that was retried, in order, the last
	// included; at most MaxTries. Empty when the first one decided.
	Tries []Try

	Route, Cluster, UpstreamHost      string
	UpstreamLocal                     string
	DownstreamLocal, DownstreamRemote string
	SNI                               string
	PeerPrincipal, LocalPrincipal     string // SPIFFE IDs of the downstream connection
	TLSVersion, TLSCipher             string
	Version                           string // of the snapshot that decided
	RequestID                         string
	GRPCStatus                        string
	Series                            SeriesKey
	Authorization                     Authorization
}
