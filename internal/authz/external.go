package authz

import (
	"context"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// External is what an external authorizer is asked: the content of ext_authz
// v3's CheckRequest, without its protobuf. Strings and headers may alias a
// connection's buffer; they are valid until Check returns.
type External struct {
	ID                                    string // x-request-id
	Provider                              string
	SourceAddress, DestinationAddress     netip.AddrPort
	SourcePrincipal, DestinationPrincipal string // spiffe://…, empty without mTLS
	SNI                                   string
	HTTP                                  bool // false: a connection, only the fields above are set
	Method, Scheme, Host, Path, Protocol  string
	// Headers yields every header once, names in lower case. nil: none.
	Headers           func(yield func(name, value string) bool)
	Body              []byte
	BodyTruncated     bool
	ContextExtensions map[string]string
	Time              time.Time
}

// Verdict is an authorizer's answer.
type Verdict struct {
	Allow  bool
	Status int    // on denial; 0 means 403
	Body   string // on denial
	// Headers: on allow they replace headers of the request to the upstream, on
	// denial they are headers of the response.
	Headers         []ir.Header
	RemoveHeaders   []string    // from the request, on allow
	ResponseHeaders []ir.Header // added to the response, on allow
	// Err: there is no decision. FailOpen and StatusOnError decide (response
	// code details ext_authz_error).
	Err    error
	Detail string // the authorizer's decision id
}

// Provider asks one external authorizer. Check may be called from any
// goroutine and returns, with Verdict.Err set, when ctx ends.
type Provider interface {
	Check(ctx context.Context, r *External) Verdict
}
