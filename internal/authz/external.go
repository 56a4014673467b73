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
	RawBody           bool // Body is to be taken for bytes (packAsBytes)
	ContextExtensions map[string]string
	Time              time.Time
}

// Append says what a header of an authorizer's answer does to one that is there
// (Envoy's HeaderAppendAction).
type Append uint8

const (
	Add          Append = iota // beside it
	Set                        // in its place
	AddIfAbsent                // nothing
	SetIfPresent               // in its place; nothing where there is none
)

// ResponseHeader is a header for the response, with what it does to one that
// the upstream has set.
type ResponseHeader struct {
	ir.Header
	Append Append
}

// Verdict is an authorizer's answer.
type Verdict struct {
	Allow  bool
	Status int    // on denial; 0 means 403
	Body   string // on denial
	// Headers: on allow they replace headers of the request to the upstream, on
	// denial they are headers of the response.
	Headers []ir.Header
	// The rest is for requests that are allowed.
	AppendHeaders   []ir.Header // to headers that the request has; others are left out
	RemoveHeaders   []string    // from the request
	ResponseHeaders []ResponseHeader
	SetQuery        []ir.Header // parameters of the query, percent-encoded
	RemoveQuery     []string
	Metadata        map[string]any // ext_authz's dynamic metadata
	// Err: there is no decision. FailOpen and StatusOnError decide (response
	// code details ext_authz_error); a Status given with it goes before
	// StatusOnError.
	Err    error
	Detail string // the authorizer's decision id
	// Local: the proxy refuses without having asked; its response code details.
	Local string
	// Evidence, where a denial has any, is what the decision was made of: JSON
	// documents without secrets. It may be called until the request is answered.
	Evidence func() (input, result []byte)
}

// Changes reports whether an allowed request is not what it was before.
func (v *Verdict) Changes() bool {
	return len(v.Headers)+len(v.AppendHeaders)+len(v.RemoveHeaders)+len(v.SetQuery)+len(v.RemoveQuery) > 0
}

// Provider asks one external authorizer. Check may be called from any
// goroutine and returns, with Verdict.Err set, when ctx ends.
type Provider interface {
	Check(ctx context.Context, r *External) Verdict
}
