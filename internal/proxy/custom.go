package proxy

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// defaultAskTimeout is Istio's default for external authorizers (trap T5).
const defaultAskTimeout = 600 * time.Second

// Ask implements authz.Asker: it puts the request to the external authorizer
// of a CUSTOM policy.
func (x *exchange) Ask(f *ir.ExtAuthz) authz.Verdict {
	d := x.d
	e := &authz.External{
		ID: x.rec.RequestID, Provider: f.Provider,
		SourceAddress: d.remote, DestinationAddress: d.local,
		SourcePrincipal: d.peer, DestinationPrincipal: x.rt.principal, SNI: d.sni,
		HTTP: true, Method: x.method, Scheme: x.scheme, Host: x.req.Host, Path: x.path + x.query, Protocol: x.c.protocol(),
		Headers: x.eachHeader, Time: x.start,
	}
	if f.MaxRequestBytes > 0 && x.req.Upgrade == "" && !x.c.Complete() {
		if err := x.bodyForCheck(f, e); err != nil {
			return *err
		}
	}
	return ask(x.chain, f, e)
}

// bodyForCheck reads as much of the body as the provider wants to see.
func (x *exchange) bodyForCheck(f *ir.ExtAuthz, e *authz.External) *authz.Verdict {
	limit := int(f.MaxRequestBytes)
	if !f.AllowPartial && x.req.Length > int64(limit) {
		return &authz.Verdict{Status: bodyTooLarge.status, Body: bodyTooLarge.body}
	}
	if x.req.Expect100 {
		x.req.Expect100 = false
		if err := x.c.proceed(); err != nil {
			return &authz.Verdict{Err: err}
		}
	}
	if err := x.bufferBody(limit); err != nil {
		return &authz.Verdict{Status: 400, Body: "request body could not be read"}
	}
	if !x.bodyDone && !f.AllowPartial {
		return &authz.Verdict{Status: bodyTooLarge.status, Body: bodyTooLarge.body}
	}
	e.Body, e.BodyTruncated = x.body[:min(len(x.body), limit)], !x.bodyDone || len(x.body) > limit
	return nil
}

func (x *exchange) eachHeader(yield func(name, value string) bool) {
	for i := range x.req.Fields.Fields {
		f := &x.req.Fields.Fields[i]
		if !yield(f.Name, f.Value) {
			return
		}
	}
	if x.req.HasLength {
		yield("content-length", strconv.FormatInt(x.req.Length, 10))
	}
}

// ask calls the provider within its timeout.
func ask(c *chain, f *ir.ExtAuthz, e *authz.External) authz.Verdict {
	provider := c.asks[f]
	if provider == nil {
		return authz.Verdict{Err: fmt.Errorf("provider %s: %s", f.Provider, firstOr(f.Broken, "not available"))}
	}
	timeout := f.Timeout.D()
	if timeout == 0 {
		timeout = defaultAskTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return provider.Check(ctx, e)
}

// applyVerdict lets an allowing authorizer change the request and, later, the
// response.
func (x *exchange) applyVerdict(v *authz.Verdict) bool {
	if v == nil {
		return true
	}
	h := &x.req.Fields
	for _, name := range v.RemoveHeaders {
		h.Del(name)
	}
	for _, f := range v.Headers {
		h.Set(f.Name, f.Value)
	}
	x.extra = append(x.extra, v.ResponseHeaders...)
	return true
}
