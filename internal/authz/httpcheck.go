package authz

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// What an HTTP authorizer is asked and what its answer means (Envoy's
// HttpService); who calls brings the bytes over.

// HTTPCheck is the request to an HTTP authorizer.
type HTTPCheck struct {
	Method, Host, Path string
	Headers            []ir.Header // without host and content-length
	Body               []byte
}

// partialBody tells the authorizer whether the body it sees is all of it.
const partialBody = "x-envoy-auth-partial-body"

// NewHTTPCheck makes the request that asks f about r. Strings alias r's.
func NewHTTPCheck(f *ir.ExtAuthz, r *External) HTTPCheck {
	c := HTTPCheck{Method: r.Method, Host: r.Host, Path: f.HTTP.PathPrefix + r.Path, Body: r.Body}
	if r.Headers != nil {
		r.Headers(func(name, value string) bool {
			if !Framing(name) && name != partialBody && (name == "authorization" || anyName(f.HTTP.RequestHeaders, name)) {
				c.Headers = append(c.Headers, ir.Header{Name: name, Value: value})
			}
			return true
		})
	}
	for _, h := range f.HTTP.AddHeaders {
		name := strings.ToLower(h.Name)
		c.Headers = remove(c.Headers, name)
		c.Headers = append(c.Headers, ir.Header{Name: name, Value: h.Value})
	}
	if len(r.Body) > 0 {
		c.Headers = append(c.Headers, ir.Header{Name: partialBody, Value: strconv.FormatBool(r.BodyTruncated)})
	}
	return c
}

func remove(list []ir.Header, name string) []ir.Header {
	kept := list[:0]
	for _, h := range list {
		if h.Name != name {
			kept = append(kept, h)
		}
	}
	return kept
}

// removeHeader is how an HTTP authorizer names headers of the request to remove.
const removeHeader = "x-envoy-auth-headers-to-remove"

// HTTPVerdict reads an HTTP authorizer's answer: 200 allows, 5xx is no
// decision, everything else denies with the authorizer's own status, headers
// and body. Names in headers are lower case.
func HTTPVerdict(f *ir.ExtAuthz, status int, headers []ir.Header, body string) Verdict {
	switch {
	case status >= 500:
		return Verdict{Err: fmt.Errorf("provider %s answers %d", f.Provider, status)}
	case status != 200:
		v := Verdict{Status: status, Body: body}
		for _, h := range headers {
			if deniedHeader(f, h.Name) {
				v.Headers = append(v.Headers, h)
			}
		}
		return v
	}
	v := Verdict{Allow: true}
	for _, h := range headers {
		switch {
		case h.Name == removeHeader:
			for _, name := range strings.Split(h.Value, ",") {
				if name = strings.ToLower(strings.TrimSpace(name)); name != "" && !Framing(name) {
					v.RemoveHeaders = append(v.RemoveHeaders, name)
				}
			}
			continue
		case Framing(h.Name):
			continue
		}
		if anyName(f.HTTP.UpstreamOnAllow, h.Name) {
			v.Headers = append(v.Headers, h)
		}
		if anyName(f.HTTP.DownstreamOnAllow, h.Name) {
			v.ResponseHeaders = append(v.ResponseHeaders, ResponseHeader{Header: h})
		}
	}
	return v
}

// deniedHeader: without a list every header of a denial goes downstream; with
// one, two more do (Envoy).
func deniedHeader(f *ir.ExtAuthz, name string) bool {
	if Framing(name) {
		return false
	}
	list := f.HTTP.DownstreamOnDeny
	return len(list) == 0 || name == "www-authenticate" || name == "location" || anyName(list, name)
}

// Framing headers belong to one hop's message, pseudo headers to its head.
func Framing(name string) bool {
	switch name {
	case "", "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection", "date", "server":
		return true
	}
	return name[0] == ':'
}

// CleanValue: a header's value has nothing in it that ends a line.
func CleanValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func anyName(list []ir.Match, name string) bool {
	for i := range list {
		if matchName(&list[i], name) {
			return true
		}
	}
	return false
}

func matchName(m *ir.Match, name string) bool {
	switch want := m.Value; m.Kind {
	case ir.Prefix:
		return len(name) >= len(want) && strings.EqualFold(name[:len(want)], want)
	case ir.Suffix:
		return len(name) >= len(want) && strings.EqualFold(name[len(name)-len(want):], want)
	case ir.Exact:
		return strings.EqualFold(name, want)
	}
	return false
}
