package compile

import (
	"reflect"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// misdirected answers 421 (RFC 9110 section 15.5.20) where a connection that one
// server of a port let in carries a request for a host of another, whose callers
// must or may show certificates. Without it a wildcard server would be the way
// round MUTUAL: the server name says who is asked, the host what is served.
func (b *builder) misdirected(l *ir.Listener) {
	for _, c := range l.Chains {
		if c.HTTP == nil {
			continue
		}
		t := b.out.Routes[slices.IndexFunc(b.out.Routes, func(t *ir.RouteTable) bool { return t.Name == c.HTTP.RouteTable })]
		for _, vh := range t.VirtualHosts {
			if owner := ownerOf(l, vh.Domains[0]); owner != nil && b.asksOthers(owner, c) {
				vh.Routes = misdirection(owner)
			}
		}
		for _, owner := range l.Chains {
			if !b.asksOthers(owner, c) {
				continue
			}
			for _, h := range owner.Match.ServerNames {
				known := slices.ContainsFunc(t.VirtualHosts, func(vh *ir.VirtualHost) bool { return vh.Domains[0] == h })
				if !known && nameRank(c, h) >= 0 {
					t.VirtualHosts = append(t.VirtualHosts, &ir.VirtualHost{Name: "misdirected:" + h, Domains: []string{h}, Routes: misdirection(owner), Origin: owner.Origin})
				}
			}
		}
	}
}

func misdirection(owner *ir.FilterChain) []*ir.Route {
	return []*ir.Route{{Name: "misdirected", Direct: &ir.DirectResponse{Status: 421}, Origin: owner.Origin}}
}

// ownerOf is the chain that connections for a host come to.
func ownerOf(l *ir.Listener, host string) (owner *ir.FilterChain) {
	best := -1
	for _, c := range l.Chains {
		if r := nameRank(c, host); r > best {
			best, owner = r, c
		}
	}
	return owner
}

// nameRank is how well a chain's server names fit a host; -1: not at all.
func nameRank(c *ir.FilterChain, host string) int {
	if len(c.Match.ServerNames) == 0 {
		return 0
	}
	best := -1
	for _, n := range c.Match.ServerNames {
		if hostMatches(n, host) {
			best = max(best, specificity(n))
		}
	}
	return best
}

// asksOthers: owner looks at its callers' certificates, and not as c does.
func (b *builder) asksOthers(owner, c *ir.FilterChain) bool {
	if owner == c || owner.HTTP == nil || owner.TLS == nil || !owner.TLS.RequireClientCert && !owner.TLS.OptionalClientCert {
		return false
	}
	return !reflect.DeepEqual(b.demands(owner.TLS), b.demands(c.TLS))
}

// demands is what a server asks of its callers' certificates, whatever the
// Secrets are called that say it.
func (b *builder) demands(t *ir.DownstreamTLS) any {
	var ca, crl []byte
	for _, s := range b.out.Secrets {
		if s.Name == t.ValidationSecret {
			ca, crl = s.CA, s.CRL
		}
	}
	return struct {
		require, optional bool
		ca, crl           []byte
		caFile, crlFile   string
		names             []ir.Match
		keys, hashes      []string
	}{t.RequireClientCert, t.OptionalClientCert, ca, crl, t.CAFile, t.CRLFile, t.SANs, t.SPKI, t.Hashes}
}
