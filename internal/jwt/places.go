package jwt

import (
	"net/url"
	"strings"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// places are where a provider's tokens may be in a request.
type places struct {
	headers []ir.JWTHeader
	params  []string
	cookies []string
}

func placesOf(p *ir.JWTProvider) places {
	if len(p.FromHeaders)+len(p.FromParams)+len(p.FromCookies) == 0 {
		return places{headers: []ir.JWTHeader{{Name: "authorization", Prefix: "Bearer "}}, params: []string{"access_token"}}
	}
	return places{p.FromHeaders, p.FromParams, p.FromCookies}
}

// find appends the request's tokens in the order headers, parameters, cookies.
func (p *places) find(out []string, fields *header.Map, query string) []string {
	for i := range p.headers {
		h := &p.headers[i]
		for j := range fields.Fields {
			if fields.Fields[j].Name != h.Name {
				continue
			}
			if token, ok := behind(fields.Fields[j].Value, h.Prefix); ok {
				out = append(out, token)
			}
		}
	}
	for _, name := range p.params {
		if v, ok := parameter(query, name); ok {
			out = append(out, v)
		}
	}
	for _, name := range p.cookies {
		if v, ok := cookie(fields, name); ok {
			out = append(out, v)
		}
	}
	return out
}

const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// behind is the token behind a prefix, which Envoy finds anywhere in the value
// and lets other characters follow. A value without the prefix holds no token.
func behind(value, prefix string) (string, bool) {
	if prefix == "" {
		return value, true
	}
	i := strings.Index(value, prefix)
	if i < 0 {
		return "", false
	}
	start := strings.IndexAny(value[i+len(prefix):], base64url)
	if start < 0 {
		return value, true // not the form of a token: refused as such
	}
	return value[i+len(prefix)+start:], true
}

// parameter is the first value of a query parameter, decoded. query begins
// with "?" or is empty.
func parameter(query, name string) (string, bool) {
	for pair := range strings.SplitSeq(strings.TrimPrefix(query, "?"), "&") {
		k, v, _ := strings.Cut(pair, "=")
		if isParameter(k, name) {
			if plain, err := url.QueryUnescape(v); err == nil {
				return plain, true
			}
			return v, true
		}
	}
	return "", false
}

func isParameter(key, name string) bool {
	if key == name {
		return true
	}
	if strings.IndexByte(key, '%') < 0 {
		return false
	}
	plain, err := url.QueryUnescape(key)
	return err == nil && plain == name
}

// without is the query without a parameter; the others stay as they are.
func without(query, name string) string {
	var kept []string
	for pair := range strings.SplitSeq(strings.TrimPrefix(query, "?"), "&") {
		if k, _, _ := strings.Cut(pair, "="); !isParameter(k, name) {
			kept = append(kept, pair)
		}
	}
	if len(kept) == 0 {
		return ""
	}
	return "?" + strings.Join(kept, "&")
}

// cookie is the first cookie of a name, without the quotes it may stand in.
func cookie(fields *header.Map, name string) (string, bool) {
	for i := range fields.Fields {
		if fields.Fields[i].Name != "cookie" {
			continue
		}
		for pair := range strings.SplitSeq(fields.Fields[i].Value, ";") {
			k, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
			if ok && k == name {
				if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
					v = v[1 : len(v)-1]
				}
				return v, true
			}
		}
	}
	return "", false
}

// remove takes the tokens off the request. Cookies stay, as in Envoy: a
// session's cookie is the application's too.
func (p *places) remove(fields *header.Map, query string) string {
	for i := range p.headers {
		h := &p.headers[i]
		for j := range fields.Fields {
			if fields.Fields[j].Name != h.Name {
				continue
			}
			if _, ok := behind(fields.Fields[j].Value, h.Prefix); ok {
				fields.Del(h.Name)
				break
			}
		}
	}
	for _, name := range p.params {
		if _, ok := parameter(query, name); ok {
			query = without(query, name)
		}
	}
	return query
}
