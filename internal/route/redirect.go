package route

import (
	"strconv"
	"strings"
)

// Location is where a redirect route sends a request: what the route does not
// say stays as the request has it. path is normalized, query has its "?".
func (c *Route) Location(scheme, host, path, query string) string {
	r, old := c.Redirect, scheme
	if r.HTTPS {
		scheme = "https"
	}
	if r.Scheme != "" {
		scheme = r.Scheme
	}
	// A port that the redirect names replaces the request's; the usual port of
	// a scheme that changes goes (Envoy).
	bare := StripPort(host)
	port := host[len(bare):]
	switch {
	case r.Host != "":
		host = r.Host
	case r.Port != 0, r.HTTPS, scheme != old && (old == "http" && port == ":80" || old == "https" && port == ":443"):
		host = bare
	}
	if r.Port != 0 {
		host += ":" + strconv.Itoa(int(r.Port))
	}
	switch {
	case r.Path != "":
		path = r.Path
		if strings.IndexByte(path, '?') >= 0 {
			query = ""
		}
	case r.Prefix != "":
		path = c.RedirectPath(path)
	}
	return scheme + "://" + host + path + query
}
