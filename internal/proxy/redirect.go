package proxy

import "github.com/tulle-mesh/tulle/internal/ir"

// redirect answers a redirect route.
func (x *exchange) redirect() {
	code := x.route.Redirect.Code
	if code == 0 {
		code = 301
	}
	x.rec.Details = "direct_response"
	x.extra = append(x.extra, ir.Header{Name: "location", Value: x.route.Location(x.scheme, x.req.Host, x.path, x.query)})
	x.answer(code, "")
}
