package proxy

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/route"
)

// redirect answers a redirect route. What the route does not say stays as the
// request has it.
func (x *exchange) redirect() {
	r := x.route.Redirect
	scheme := x.scheme
	if r.HTTPS {
		scheme = "https"
	}
	if r.Scheme != "" {
		scheme = r.Scheme
	}
	host := r.Host
	if host == "" {
		host = x.redirectHost(r, scheme)
	}
	if r.Port != 0 {
		host += ":" + itoa(int(r.Port))
	}
	path, query := x.path, x.query
	switch {
	case r.Path != "":
		path = r.Path
		if strings.IndexByte(path, '?') >= 0 {
			query = ""
		}
	case r.Prefix != "":
		path = x.route.RedirectPath(path)
	}
	code := r.Code
	if code == 0 {
		code = 301
	}
	x.rec.Details = "direct_response"
	x.extra = append(x.extra, ir.Header{Name: "location", Value: scheme + "://" + host + path + query})
	x.answer(code, "")
}

// redirectHost keeps the request's host; its port goes if the redirect names
// one, or if it is the usual port of a scheme that changes (Envoy).
func (x *exchange) redirectHost(r *ir.Redirect, scheme string) string {
	host := x.req.Host
	bare := route.StripPort(host)
	port := host[len(bare):]
	if r.Port != 0 || r.HTTPS || scheme != x.scheme && (x.scheme == "http" && port == ":80" || x.scheme == "https" && port == ":443") {
		return bare
	}
	return host
}
