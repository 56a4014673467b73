package proxy

import (
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// preflight applies the route's CORS policy: it notes whether the response is
// to be decorated, and answers preflights (WHATWG Fetch, "CORS-preflight
// request") itself. Preflights of other origins go on to the upstream unless
// the policy says otherwise.
func (x *exchange) preflight() (answered bool) {
	p := x.route.CORS
	h := &x.req.Fields
	origin := h.First("origin")
	if origin == "" {
		return false
	}
	allowed := x.route.AllowsOrigin(origin)
	if allowed {
		x.d.p.stats.originValid.Add(1)
		x.allowedOrigin = origin
	} else {
		x.d.p.stats.originInvalid.Add(1)
	}
	if x.method != "OPTIONS" || h.First("access-control-request-method") == "" || !allowed && !p.IgnoreUnmatched {
		return false
	}
	for _, f := range []ir.Header{
		{Name: "access-control-allow-methods", Value: p.Methods}, {Name: "access-control-allow-headers", Value: p.Headers}, {Name: "access-control-max-age", Value: p.MaxAge},
	} {
		if f.Value != "" && allowed {
			x.extra = append(x.extra, f)
		}
	}
	x.rec.Details = "cors_response"
	x.answer(200, "")
	return true
}

// decorate lets an allowed origin read the response.
func (x *exchange) decorate(h *header.Map) {
	p := x.route.CORS
	h.Set("access-control-allow-origin", x.allowedOrigin)
	if p.AllowCredentials {
		h.Set("access-control-allow-credentials", "true")
	}
	if p.Expose != "" && x.rec.Details != "cors_response" {
		h.Set("access-control-expose-headers", p.Expose)
	}
}
