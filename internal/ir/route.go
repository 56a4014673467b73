package ir

import "strconv"

// RouteTable is Envoy's RouteConfiguration: a Host header chooses a virtual
// host, then the first route that matches decides.
type RouteTable struct {
	Name         string         `json:"name"`
	VirtualHosts []*VirtualHost `json:"virtualHosts,omitempty"`
}

// VirtualHost owns a set of domains. Domains are chosen by specificity: exact,
// longest "*.suffix", longest "prefix.*", "*". A port in the Host header
// counts: both "worker" and "worker:8000" are listed where both are meant.
type VirtualHost struct {
	Name    string   `json:"name"`
	Domains []string `json:"domains"`
	Routes  []*Route `json:"routes,omitempty"`
	Origin  Origin   `json:"origin,omitzero"`
}

// Route: what is matched and what is done. Exactly one of Forward, Redirect
// and Direct is set.
type Route struct {
	Name     string          `json:"name,omitempty"` // as the access log prints it
	Match    RouteMatch      `json:"match,omitzero"`
	Forward  *Forward        `json:"forward,omitempty"`
	Redirect *Redirect       `json:"redirect,omitempty"`
	Direct   *DirectResponse `json:"direct,omitempty"`
	// Fault is injected before anything else is done with the request, CORS
	// answered after it; CORS has no effect without Forward (Envoy's filters).
	Fault    *Fault    `json:"fault,omitempty"`
	CORS     *CORS     `json:"cors,omitempty"`
	Request  HeaderOps `json:"request,omitzero"`
	Response HeaderOps `json:"response,omitzero"`
	// StatPrefix counts the route's requests under a name of its own.
	StatPrefix string `json:"statPrefix,omitempty"`
	Origin     Origin `json:"origin,omitzero"` // line of the http[] entry
	// Root is the entry of the VirtualService that delegated to Origin's.
	Root Origin `json:"root,omitzero"`
}

// RouteMatch: all set fields must match.
type RouteMatch struct {
	Path    *Match        `json:"path,omitempty"`    // exact, prefix, regex; nil matches all
	Headers []HeaderMatch `json:"headers,omitempty"` // also :method, :scheme, :authority
	Query   []QueryMatch  `json:"query,omitempty"`
	Claims  []ClaimMatch  `json:"claims,omitempty"` // of the request's verified token
	// MatchOrigin is the line of the match[] block, for explain.
	Origin Origin `json:"origin,omitzero"`
}

// HeaderMatch compares a header (name in lower case). A missing header never
// matches unless Invert; with TreatMissingAsEmpty it is compared as "".
type HeaderMatch struct {
	Name                string `json:"name"`
	Value               Match  `json:"value"`
	Invert              bool   `json:"invert,omitempty"`
	TreatMissingAsEmpty bool   `json:"treatMissingAsEmpty,omitempty"`
}

// ClaimMatch compares a claim of the request's verified token: a string, or a
// list that has one. Without a token nothing matches unless Invert.
type ClaimMatch struct {
	Path   []string `json:"path"`
	Value  Match    `json:"value"`
	Invert bool     `json:"invert,omitempty"`
}

// QueryMatch compares a query parameter's first value.
type QueryMatch struct {
	Name  string `json:"name"`
	Value Match  `json:"value"`
}

// Forward sends the request on.
type Forward struct {
	Clusters []WeightedCluster `json:"clusters"`
	// Timeout of the whole exchange, retries included; 0 means none. A gRPC
	// call may ask for less (grpc-timeout), never for more.
	Timeout Duration     `json:"timeout,omitempty"`
	Retry   *RetryPolicy `json:"retry,omitempty"`
	// Rewrites: PathRegex and PrefixRewrite exclude each other.
	PrefixRewrite string        `json:"prefixRewrite,omitempty"` // replaces what Path matched
	RegexRewrite  *RegexRewrite `json:"regexRewrite,omitempty"`
	HostRewrite   string        `json:"hostRewrite,omitempty"`
	HashPolicy    []HashPolicy  `json:"hashPolicy,omitempty"`
	// AppendForwardedHost notes the original host in x-forwarded-host when the
	// host is rewritten.
	AppendForwardedHost bool     `json:"appendForwardedHost,omitempty"`
	Mirrors             []Mirror `json:"mirrors,omitempty"`
}

// Share is a part of all requests in millionths: 10000 is one percent.
type Share uint32

// All is the Share of every request.
const All Share = 1_000_000

// String is the share in percent, "12.5%".
func (s Share) String() string { return strconv.FormatFloat(float64(s)/10_000, 'f', -1, 64) + "%" }

// Mirror copies a share of the requests to another cluster. The copy's answer
// is thrown away.
type Mirror struct {
	Cluster string `json:"cluster"`
	Share   Share  `json:"share"`
	// ShadowHost appends "-shadow" to the copy's host, in front of its port.
	ShadowHost bool   `json:"shadowHost,omitempty"`
	Origin     Origin `json:"origin,omitzero"`
}

// Fault delays or refuses a share of the requests; the two are drawn
// independently, the delay comes first. Timeouts and retries begin after it.
type Fault struct {
	Delay *FaultDelay `json:"delay,omitempty"`
	Abort *FaultAbort `json:"abort,omitempty"`
}

// FaultDelay holds a request for a fixed time.
type FaultDelay struct {
	Fixed  Duration `json:"fixed"`
	Share  Share    `json:"share"`
	Origin Origin   `json:"origin,omitzero"`
}

// FaultAbort answers instead of the upstream, with an HTTP status or, where
// Status is 0, a gRPC status.
type FaultAbort struct {
	Status int    `json:"status,omitempty"`
	GRPC   int    `json:"grpc,omitempty"`
	Share  Share  `json:"share"`
	Origin Origin `json:"origin,omitzero"`
}

// CORS answers preflights and decorates responses to allowed origins. Lists
// are as the headers carry them, joined with ",".
type CORS struct {
	Origins          []Match `json:"origins,omitempty"`
	Methods          string  `json:"methods,omitempty"`
	Headers          string  `json:"headers,omitempty"`
	Expose           string  `json:"expose,omitempty"`
	MaxAge           string  `json:"maxAge,omitempty"` // seconds
	AllowCredentials bool    `json:"allowCredentials,omitempty"`
	// IgnoreUnmatched answers preflights of other origins too, without the
	// allowing headers, instead of forwarding them.
	IgnoreUnmatched bool   `json:"ignoreUnmatched,omitempty"`
	Origin          Origin `json:"origin,omitzero"`
}

// RegexRewrite substitutes in the path (RE2, \1 for groups).
type RegexRewrite struct {
	Match        string `json:"match"`
	Substitution string `json:"substitution"`
}

// HashPolicy feeds ring hash and maglev; exactly one field is set.
type HashPolicy struct {
	Header   string      `json:"header,omitempty"`
	Cookie   *HashCookie `json:"cookie,omitempty"`
	SourceIP bool        `json:"sourceIP,omitempty"`
	Query    string      `json:"query,omitempty"`
}

// HashCookie: TTL nil means do not generate one; 0 is a session cookie.
type HashCookie struct {
	Name string    `json:"name"`
	Path string    `json:"path,omitempty"`
	TTL  *Duration `json:"ttl,omitempty"`
	// Attributes are added to a generated cookie: "SameSite=Strict", or a bare
	// name such as "Secure".
	Attributes []string `json:"attributes,omitempty"`
}

// WeightedCluster: the share is Weight over the sum; a single one takes all.
type WeightedCluster struct {
	Name     string    `json:"name"`
	Weight   uint32    `json:"weight,omitempty"`
	Request  HeaderOps `json:"request,omitzero"` // applied before the route's
	Response HeaderOps `json:"response,omitzero"`
	// HostRewrite applies where the route has none.
	HostRewrite string `json:"hostRewrite,omitempty"`
	Origin      Origin `json:"origin,omitzero"`
}

// RetryPolicy follows Envoy's route.RetryPolicy.
type RetryPolicy struct {
	Attempts      uint32   `json:"attempts"` // tries after the first
	PerTryTimeout Duration `json:"perTryTimeout,omitempty"`
	On            []string `json:"on,omitempty"`    // Envoy's conditions: connect-failure, 5xx, reset, …
	Codes         []int    `json:"codes,omitempty"` // for retriable-status-codes
	// PreviousHosts: avoid hosts already tried, asking the balancer up to
	// HostAttempts times for another one.
	PreviousHosts bool `json:"previousHosts,omitempty"`
	// PreviousPriorities: each time two more tries have failed, also leave the
	// priorities (localities) that were used.
	PreviousPriorities bool     `json:"previousPriorities,omitempty"`
	HostAttempts       int      `json:"hostAttempts,omitempty"`
	Backoff            Duration `json:"backoff,omitempty"`    // base; default 25 ms
	MaxBackoff         Duration `json:"maxBackoff,omitempty"` // default 10 × base
	Origin             Origin   `json:"origin,omitzero"`
}

// HeaderOps are applied in the order remove, set, add (Envoy's). Values may
// hold Envoy's operators (%REQ(name)%, %DOWNSTREAM_REMOTE_ADDRESS%); %% is a
// percent sign.
type HeaderOps struct {
	Set    []Header `json:"set,omitempty"`
	Add    []Header `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// IsZero reports whether there is nothing to do.
func (h HeaderOps) IsZero() bool { return len(h.Set)+len(h.Add)+len(h.Remove) == 0 }

// Header is one name (lower case) and value.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Redirect answers with a Location.
type Redirect struct {
	Path   string `json:"path,omitempty"`   // replaces the whole path
	Prefix string `json:"prefix,omitempty"` // replaces what Path matched
	Host   string `json:"host,omitempty"`
	Port   uint16 `json:"port,omitempty"`
	Scheme string `json:"scheme,omitempty"`
	Code   int    `json:"code,omitempty"`  // default 301
	HTTPS  bool   `json:"https,omitempty"` // gateway httpsRedirect
}

// DirectResponse answers without an upstream. Body is text, Bytes is used
// where it is not.
type DirectResponse struct {
	Status int    `json:"status"`
	Body   string `json:"body,omitempty"`
	Bytes  []byte `json:"bytes,omitempty"`
}
