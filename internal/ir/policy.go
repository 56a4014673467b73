package ir

// Filter is one step of authorization. Exactly one field is set. Compile
// emits them in Istio's order: CUSTOM (ExtAuthz), JWT, DENY, ALLOW, and the
// first step that refuses ends the request.
type Filter struct {
	RBAC     *RBAC     `json:"rbac,omitempty"`
	ExtAuthz *ExtAuthz `json:"extAuthz,omitempty"`
	JWT      *JWT      `json:"jwt,omitempty"`
}

// Action of an RBAC step.
type Action string

const (
	Allow Action = "ALLOW" // refuse unless a policy matches; no policies refuses everything
	Deny  Action = "DENY"  // refuse when a policy matches
	Audit Action = "AUDIT" // mark only
)

// RBAC is a set of policies with one action.
type RBAC struct {
	Action   Action   `json:"action"`
	Policies []Policy `json:"policies,omitempty"`
	// DryRun: evaluate and record, never refuse.
	DryRun bool `json:"dryRun,omitempty"`
}

// Policy is one rule of an AuthorizationPolicy, named as Istio names it in
// response_code_details: "ns[researchflow]-policy[worker]-rule[0]". It matches
// when Permission (what is asked) and Principal (who asks) both do.
type Policy struct {
	Name       string `json:"name"`
	Permission *Expr  `json:"permission"`
	Principal  *Expr  `json:"principal"`
	Origin     Origin `json:"origin,omitzero"` // line of rules[i]
}

// ExprOp is the shape of an expression node.
type ExprOp string

const (
	Any  ExprOp = "any" // always true
	And  ExprOp = "and"
	Or   ExprOp = "or"
	Not  ExprOp = "not"  // of Args[0]
	Leaf ExprOp = "leaf" // Attr compared with Value or CIDR
)

// Expr is a tree over attributes of a request or connection.
type Expr struct {
	Op    ExprOp  `json:"op"`
	Args  []*Expr `json:"args,omitempty"`
	Attr  Attr    `json:"attr,omitempty"`
	Key   string  `json:"key,omitempty"` // header name (lower case), or claim path, "a][b"
	Value Match   `json:"value,omitzero"`
	CIDR  string  `json:"cidr,omitempty"` // AttrSourceIP, AttrRemoteIP, AttrDestinationIP
	Port  uint16  `json:"port,omitempty"` // AttrDestinationPort
}

// Attr is what a leaf looks at.
type Attr string

const (
	AttrPrincipal       Attr = "source.principal" // full SPIFFE ID, "spiffe://td/ns/x/sa/y"; empty without mTLS
	AttrSourceIP        Attr = "source.ip"        // the peer's address
	AttrRemoteIP        Attr = "remote.ip"        // after x-forwarded-for and PROXY protocol
	AttrDestinationIP   Attr = "destination.ip"
	AttrDestinationPort Attr = "destination.port"
	AttrSNI             Attr = "connection.sni"
	AttrHost            Attr = "request.host"
	AttrMethod          Attr = "request.method"
	AttrPath            Attr = "request.path"   // without query
	AttrHeader          Attr = "request.header" // Key
	AttrClaim           Attr = "request.auth.claims"
	AttrAudience        Attr = "request.auth.audiences"
	AttrPresenter       Attr = "request.auth.presenter"
)

// ExtAuthz asks an external authorizer about requests that one of Policies
// matches (CUSTOM rules); others pass this step untouched.
type ExtAuthz struct {
	Provider string   `json:"provider"` // name in MeshConfig.extensionProviders
	Policies []Policy `json:"policies,omitempty"`
	// Broken: the provider is unknown or unusable; what Policies match is
	// refused (Istio fails closed). The text says why.
	Broken string `json:"broken,omitempty"`

	Cluster         string   `json:"cluster,omitempty"`
	Authority       string   `json:"authority,omitempty"` // what the authorizer is called in requests to it
	Timeout         Duration `json:"timeout,omitempty"`   // default 600s (Istio's)
	FailOpen        bool     `json:"failOpen,omitempty"`
	StatusOnError   int      `json:"statusOnError,omitempty"`   // default 403
	MaxRequestBytes uint32   `json:"maxRequestBytes,omitempty"` // 0: body not sent
	AllowPartial    bool     `json:"allowPartial,omitempty"`
	PackAsBytes     bool     `json:"packAsBytes,omitempty"`
	// ClearRouteCache: the route is chosen again after the authorizer has changed
	// the request; otherwise the request as it came chooses.
	ClearRouteCache bool `json:"clearRouteCache,omitempty"`
	// HTTP: the authorizer speaks plain HTTP. nil: envoy.service.auth.v3 over gRPC.
	HTTP *ExtAuthzHTTP `json:"http,omitempty"`
	// Rego: decide in this process instead of asking Cluster.
	Rego *Rego `json:"rego,omitempty"`
}

// ExtAuthzHTTP is how an HTTP authorizer is asked (Envoy's HttpService). Header
// names are compared without case.
type ExtAuthzHTTP struct {
	PathPrefix     string   `json:"pathPrefix,omitempty"`     // before the request's path
	RequestHeaders []Match  `json:"requestHeaders,omitempty"` // sent besides host, authorization and content-length
	AddHeaders     []Header `json:"addHeaders,omitempty"`     // sent with every check
	// Headers of the authorizer's answer: onto the request on allow, into the
	// response on denial (none named: all) and on allow.
	UpstreamOnAllow   []Match `json:"upstreamOnAllow,omitempty"`
	DownstreamOnDeny  []Match `json:"downstreamOnDeny,omitempty"`
	DownstreamOnAllow []Match `json:"downstreamOnAllow,omitempty"`
}

// Rego is policy text evaluated inside the proxy's own process.
type Rego struct {
	Name    string            `json:"name"`           // of what the user wrote, for logs
	Query   string            `json:"query"`          // "data.envoy.authz.allow"
	Modules map[string]string `json:"modules"`        // file name → text
	Data    string            `json:"data,omitempty"` // JSON document
	// What becomes of a request without a decision; "" is RegoDeny.
	OnUndefined RegoOutcome `json:"onUndefined,omitempty"`
	OnError     RegoOutcome `json:"onError,omitempty"`
	OnTimeout   RegoOutcome `json:"onTimeout,omitempty"`
	DryRun      bool        `json:"dryRun,omitempty"`   // decide and log; every request is allowed
	SkipBody    bool        `json:"skipBody,omitempty"` // input has neither parsed_body nor truncated_body
	// DecisionLog: a line of JSON for each decision goes to standard output.
	// MaskPath and DropPath are the rules that say what of it is left out.
	DecisionLog bool              `json:"decisionLog,omitempty"`
	MaskPath    string            `json:"maskPath,omitempty"` // default data.system.log.mask
	DropPath    string            `json:"dropPath,omitempty"` // default data.system.log.drop
	Labels      map[string]string `json:"labels,omitempty"`   // of decision log lines
}

// RegoOutcome is what a missing decision counts as.
type RegoOutcome string

const (
	RegoDeny  RegoOutcome = "deny"
	RegoAllow RegoOutcome = "allow"
	RegoFail  RegoOutcome = "error" // the provider's failOpen and statusOnError decide
)
