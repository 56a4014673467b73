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
}
