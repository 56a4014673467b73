package proxy

import (
	"encoding/hex"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// target is where a cluster of original destinations connects to. A connection
// that was made to the listener's own socket has none: sending it there would
// be a loop. (Envoy too asks for an address that redirection has restored.)
func (d *downstream) target() netip.AddrPort {
	if d.direct {
		return netip.AddrPort{}
	}
	return d.local
}

// origin is what the upstream may be told of the caller's connection.
func (d *downstream) origin() upstream.Source { return upstream.Source{From: d.remote, To: d.local} }

// hash computes what consistent hashing looks at, once per request: a retry
// must find the same place. The first policy that yields something counts.
func (x *exchange) hash(f *ir.Forward) upstream.Hash {
	if len(f.HashPolicy) == 0 || x.hashed.Set {
		return x.hashed
	}
	for i := range f.HashPolicy {
		if x.hashed = x.hashBy(&f.HashPolicy[i]); x.hashed.Set {
			break
		}
	}
	return x.hashed
}

func (x *exchange) hashBy(p *ir.HashPolicy) upstream.Hash {
	var value string
	ok := false
	switch {
	case p.Header != "":
		switch p.Header {
		case ":authority", "host":
			value, ok = x.req.Host, true
		case ":path":
			value, ok = x.req.Path, true
		case ":method":
			value, ok = x.method, true
		default:
			value, ok = x.req.Fields.Get(p.Header)
		}
	case p.Cookie != nil:
		return x.hashCookie(p.Cookie)
	case p.SourceIP:
		value, ok = x.remoteIP().String(), true
	case p.Query != "":
		value, ok = queryParameter(x.query, p.Query)
	}
	if !ok {
		return upstream.Hash{}
	}
	return upstream.HashOf(value)
}

// queryParameter finds a parameter in "?a=b&c=d", undecoded as Envoy hashes it.
func queryParameter(query, name string) (string, bool) {
	query = strings.TrimPrefix(query, "?")
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v, true
		}
	}
	return "", false
}

// hashCookie takes the cookie's value; a caller without one gets one, so that
// it comes back to the same host. Envoy makes it of both ends' addresses.
func (x *exchange) hashCookie(c *ir.HashCookie) upstream.Hash {
	cookies, _ := x.req.Fields.Get("cookie")
	for cookies != "" {
		var pair string
		pair, cookies, _ = strings.Cut(cookies, ";")
		if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == c.Name {
			return upstream.HashOf(strings.Trim(v, `"`))
		}
	}
	if c.TTL == nil {
		return upstream.Hash{}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(x.d.remoteText + x.d.localText)) // never fails
	value := hex.EncodeToString(h.Sum(nil))
	text := c.Name + `="` + value + `"`
	if *c.TTL > 0 {
		text += "; Max-Age=" + strconv.FormatInt(int64(c.TTL.D().Seconds()), 10)
	}
	if c.Path != "" {
		text += "; Path=" + c.Path
	}
	for _, a := range c.Attributes {
		text += "; " + a
	}
	x.extra = append(x.extra, ir.Header{Name: "set-cookie", Value: text + "; HttpOnly"})
	return upstream.HashOf(value)
}
