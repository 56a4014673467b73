package ir

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
	Request  HeaderOps       `json:"request,omitzero"`
	Response HeaderOps       `json:"response,omitzero"`
	Origin   Origin          `json:"origin,omitzero"` // line of the http[] entry
}

// RouteMatch: all set fields must match.
type RouteMatch struct {
	Path    *Match        `json:"path,omitempty"`    // exact, prefix, regex; nil matches all
	Headers []HeaderMatch `json:"headers,omitempty"` // also :method, :scheme, :authority
	Query   []QueryMatch  `json:"query,omitempty"`
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

// QueryMatch compares a query parameter's first value.
type QueryMatch struct {
	Name  string `json:"name"`
	Value Match  `json:"value"`
}

// Forward sends the request on.
type Forward struct {
	Clusters []WeightedCluster `json:"clusters"`
	// Timeout of the whole exchange, retries included; 0 means none.
	Timeout Duration     `json:"timeout,omitempty"`
	Retry   *RetryPolicy `json:"retry,omitempty"`
	// Rewrites: PathRegex and PrefixRewrite exclude each other.
	PrefixRewrite string        `json:"prefixRewrite,omitempty"` // replaces what Path matched
	RegexRewrite  *RegexRewrite `json:"regexRewrite,omitempty"`
	HostRewrite   string        `json:"hostRewrite,omitempty"`
	HashPolicy    []HashPolicy  `json:"hashPolicy,omitempty"`
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
	Request  HeaderOps `json:"request,omitzero"`
	Response HeaderOps `json:"response,omitzero"`
	Origin   Origin    `json:"origin,omitzero"`
}

// RetryPolicy follows Envoy's route.RetryPolicy.
type RetryPolicy struct {
	Attempts      uint32   `json:"attempts"` // tries after the first
	PerTryTimeout Duration `json:"perTryTimeout,omitempty"`
	On            []string `json:"on,omitempty"`    // Envoy's conditions: connect-failure, 5xx, reset, …
	Codes         []int    `json:"codes,omitempty"` // for retriable-status-codes
	// PreviousHosts: avoid hosts already tried, asking the balancer up to
	// HostAttempts times for another one.
	PreviousHosts bool     `json:"previousHosts,omitempty"`
	HostAttempts  int      `json:"hostAttempts,omitempty"`
	Backoff       Duration `json:"backoff,omitempty"`    // base; default 25 ms
	MaxBackoff    Duration `json:"maxBackoff,omitempty"` // default 10 × base
	Origin        Origin   `json:"origin,omitzero"`
}

// HeaderOps are applied in the order remove, set, add (Envoy's).
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

// DirectResponse answers without an upstream.
type DirectResponse struct {
	Status int    `json:"status"`
	Body   string `json:"body,omitempty"`
}
