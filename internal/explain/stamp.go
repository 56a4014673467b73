package explain

import (
	"maps"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// someID stands for the x-request-id that a proxy draws: only that there is
// one is known beforehand.
const someID = "00000000-0000-4000-8000-000000000000"

// stamp does what a proxy does to a request before it looks at it: its own word
// takes the place of what the hop before had no right to say. client is who
// calls a gateway; the zero Addr when that is not known.
func (s *sent) stamp(c *ir.FilterChain, client netip.Addr) {
	h := s.headers.own()
	if c.HTTP.UseRemoteAddress {
		h.edge(c.HTTP.TrustedHops, client)
	}
	s.scheme = "http"
	if c.TLS != nil {
		s.scheme = "https"
	}
	switch proto := h["x-forwarded-proto"]; proto {
	case "":
		h["x-forwarded-proto"] = s.scheme
	case "http", "https":
		s.scheme = proto
	}
	if _, ok := h["x-request-id"]; !ok {
		h["x-request-id"] = someID
	}
	s.headers = h
}

// edge: at a gateway the outside is believed as far as the trusted hops go.
func (f fields) edge(hops int, client netip.Addr) {
	maps.DeleteFunc(f, func(name, _ string) bool { return strings.HasPrefix(name, "x-envoy-") })
	if hops == 0 {
		delete(f, "x-request-id")
		delete(f, "x-forwarded-proto")
	}
	said := "unknown"
	if client.IsValid() {
		said = client.String()
	}
	if before := f["x-forwarded-for"]; before != "" {
		said = before + "," + said
	}
	f["x-forwarded-for"] = said
}

// own is a copy with the names in lower case.
func (f fields) own() fields {
	out := fields{}
	for name, v := range f {
		out[strings.ToLower(name)] = v
	}
	return out
}
