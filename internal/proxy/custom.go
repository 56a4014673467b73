package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// defaultAskTimeout is Istio's default for external authorizers (trap T5).
const defaultAskTimeout = 600 * time.Second

// Ask implements authz.Asker: it puts the request to the external authorizer
// of a CUSTOM policy. What an allowing authorizer changes is changed before the
// next policy looks at the request, as in Envoy's chain of filters.
func (x *exchange) Ask(f *ir.ExtAuthz) authz.Verdict {
	d := x.d
	e := &authz.External{
		ID: x.rec.RequestID, Provider: f.Provider,
		SourceAddress: d.remote, DestinationAddress: d.local,
		SourcePrincipal: d.peer, DestinationPrincipal: x.rt.principal, SNI: d.sni,
		HTTP: true, Method: x.method, Scheme: x.scheme, Host: x.req.Host, Path: x.path + x.query, Protocol: x.c.protocol(),
		Headers: x.eachHeader, RawBody: f.PackAsBytes, Time: x.start,
	}
	if f.MaxRequestBytes > 0 && x.req.Upgrade == "" && (len(x.body) > 0 || !x.c.Complete()) {
		if refused := x.bodyForCheck(f, e); refused != nil {
			return *refused
		}
	}
	v := ask(x.chain, f, e)
	if v.Err == nil && v.Allow {
		x.applyVerdict(f, &v)
	}
	return v
}

// bodyForCheck reads as much of the body as the provider wants to see.
func (x *exchange) bodyForCheck(f *ir.ExtAuthz, e *authz.External) *authz.Verdict {
	limit := int(f.MaxRequestBytes)
	tooLarge := &authz.Verdict{Status: bodyTooLarge.status, Body: bodyTooLarge.body, Local: bodyTooLarge.details}
	if !f.AllowPartial && x.req.Length > int64(limit) {
		return tooLarge
	}
	if x.req.Expect100 {
		x.req.Expect100 = false
		if err := x.c.proceed(); err != nil {
			return &authz.Verdict{Err: err}
		}
	}
	read := limit
	if !f.AllowPartial {
		read++ // the byte that is too many
	}
	if err := x.bufferBody(read); err != nil {
		return &authz.Verdict{Status: 400, Body: "request body could not be read", Local: "request_body_unreadable"}
	}
	if len(x.body) > limit && !f.AllowPartial {
		return tooLarge
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
	for _, name := range [...]string{"upgrade", "content-length"} { // not among the fields
		if v, ok := x.req.Get(name); ok && !yield(name, v) {
			return
		}
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
// response. The route is chosen by the request as it came unless the provider
// says clearRouteCache: Envoy has looked it up before it asks.
func (x *exchange) applyVerdict(f *ir.ExtAuthz, v *authz.Verdict) {
	x.allowed = append(x.allowed, v.ResponseHeaders...)
	if !v.Changes() {
		return
	}
	if !f.ClearRouteCache && !x.looked && x.chain.routes != nil {
		x.lookUpRoute()
	}
	h := &x.req.Fields
	for _, f := range v.Headers {
		h.Set(f.Name, f.Value)
	}
	for _, f := range v.AppendHeaders {
		if h.Has(f.Name) { // Envoy adds to what is there only
			h.Add(f.Name, f.Value)
		}
	}
	for _, name := range v.RemoveHeaders {
		h.Del(name)
	}
	if len(v.SetQuery)+len(v.RemoveQuery) > 0 {
		x.query = changeQuery(x.query, v)
		x.authz.Query = x.query
	}
}

// changeQuery sets parameters (each once, in the first one's place) and removes
// others. Names and values are percent-encoded already.
func changeQuery(query string, v *authz.Verdict) string {
	var kept []string
	done := map[string]bool{}
	for _, pair := range strings.Split(strings.TrimPrefix(query, "?"), "&") {
		name, _, _ := strings.Cut(pair, "=")
		if pair == "" || slices.Contains(v.RemoveQuery, name) {
			continue
		}
		if i := slices.IndexFunc(v.SetQuery, func(h ir.Header) bool { return h.Name == name }); i >= 0 {
			if done[name] {
				continue
			}
			done[name] = true
			pair = name + "=" + lastOf(v.SetQuery, name)
		}
		kept = append(kept, pair)
	}
	for _, h := range v.SetQuery {
		if !done[h.Name] {
			done[h.Name] = true
			kept = append(kept, h.Name+"="+lastOf(v.SetQuery, h.Name))
		}
	}
	if len(kept) == 0 {
		return ""
	}
	return "?" + strings.Join(kept, "&")
}

func lastOf(list []ir.Header, name string) (value string) {
	for _, h := range list {
		if h.Name == name {
			value = h.Value
		}
	}
	return value
}

// addExtra puts headers into a response that are neither the upstream's nor
// the route's.
func (x *exchange) addExtra(h *header.Map) {
	for _, f := range x.extra {
		h.Add(f.Name, f.Value)
	}
	for _, f := range x.refusal {
		h.Del(f.Name)
	}
	for _, f := range x.refusal { // set-cookie may come more than once
		h.Add(f.Name, f.Value)
	}
	for _, f := range x.allowed {
		switch there := h.Has(f.Name); {
		case f.Append == authz.Add, f.Append == authz.AddIfAbsent && !there:
			h.Add(f.Name, f.Value)
		case f.Append == authz.Set, f.Append == authz.SetIfPresent && there:
			h.Set(f.Name, f.Value)
		}
	}
}
