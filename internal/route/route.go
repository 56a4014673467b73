// Package route chooses what happens to a request: virtual host by Host
// header, then the first route that matches. It is pure; the proxy calls it
// for live traffic (Match does not allocate) and explain for questions (Trace).
package route

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Headers looks up a header by lower-case name; several values are joined.
type Headers interface {
	Get(name string) (string, bool)
}

// Request is what routing looks at. Strings may alias a connection's buffer.
type Request struct {
	Method, Scheme string
	Host           string // authority as sent, with its port
	Path           string // normalized, without query
	Query          string // without "?"
	Headers        Headers
	Claims         Claims // nil: no verified token
}

// Miss says why nothing matched.
type Miss int

const (
	Matched       Miss = iota
	NoVirtualHost      // no domain for this host
	NoRoute            // the virtual host has no route for this request
)

// Table is a compiled route table. Safe for concurrent use.
type Table struct {
	name     string
	exact    map[string]*virtualHost
	suffixes []wildcard // "*.example.com", longest first
	prefixes []wildcard // "www.*", longest first
	any      *virtualHost
}

type wildcard struct {
	text string
	vh   *virtualHost
}

type virtualHost struct {
	*ir.VirtualHost
	routes []*Route
}

// Route is a compiled route.
type Route struct {
	*ir.Route
	VirtualHost *ir.VirtualHost
	path        *text
	headers     []headerMatch
	query       []queryMatch
	claims      []claimMatch
	weights     uint64
	origins     []text // CORS
	rewrite     *regexp.Regexp
	substitute  string
}

type headerMatch struct {
	*ir.HeaderMatch
	text text
}

type queryMatch struct {
	name string
	text text
}

// New compiles a table; the error names virtual host and route.
func New(t *ir.RouteTable) (*Table, error) {
	out := &Table{name: t.Name, exact: map[string]*virtualHost{}}
	for _, v := range t.VirtualHosts {
		vh := &virtualHost{VirtualHost: v}
		for i, r := range v.Routes {
			c, err := compileRoute(v, r)
			if err != nil {
				return nil, fmt.Errorf("virtual host %s: route %d: %w", v.Name, i, err)
			}
			vh.routes = append(vh.routes, c)
		}
		for _, d := range v.Domains {
			if err := out.addDomain(strings.ToLower(d), vh); err != nil {
				return nil, fmt.Errorf("virtual host %s: %w", v.Name, err)
			}
		}
	}
	byLength(out.suffixes)
	byLength(out.prefixes)
	return out, nil
}

func (t *Table) addDomain(d string, vh *virtualHost) error {
	switch {
	case d == "*":
		if t.any != nil {
			return fmt.Errorf("domain * is taken by %s", t.any.Name)
		}
		t.any = vh
	case strings.HasPrefix(d, "*"):
		return addWildcard(&t.suffixes, d, d[1:], vh)
	case strings.HasSuffix(d, "*"):
		return addWildcard(&t.prefixes, d, d[:len(d)-1], vh)
	default:
		if other := t.exact[d]; other != nil {
			return fmt.Errorf("domain %s is taken by %s", d, other.Name)
		}
		t.exact[d] = vh
	}
	return nil
}

func addWildcard(list *[]wildcard, domain, text string, vh *virtualHost) error {
	for _, w := range *list {
		if w.text == text {
			return fmt.Errorf("domain %s is taken by %s", domain, w.vh.Name)
		}
	}
	*list = append(*list, wildcard{text, vh})
	return nil
}

func byLength(w []wildcard) {
	for i := 1; i < len(w); i++ {
		for j := i; j > 0 && len(w[j].text) > len(w[j-1].text); j-- {
			w[j], w[j-1] = w[j-1], w[j]
		}
	}
}

func compileRoute(v *ir.VirtualHost, r *ir.Route) (*Route, error) {
	c := &Route{Route: r, VirtualHost: v}
	n := 0
	for _, set := range []bool{r.Forward != nil, r.Redirect != nil, r.Direct != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("exactly one of forward, redirect and direct must be set")
	}
	if r.Match.Path != nil {
		p, err := compileText(*r.Match.Path)
		if err != nil {
			return nil, fmt.Errorf("path: %w", err)
		}
		c.path = &p
	}
	for i := range r.Match.Headers {
		h := &r.Match.Headers[i]
		m, err := compileText(h.Value)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.Name, err)
		}
		c.headers = append(c.headers, headerMatch{h, m})
	}
	for _, q := range r.Match.Query {
		m, err := compileText(q.Value)
		if err != nil {
			return nil, fmt.Errorf("query parameter %s: %w", q.Name, err)
		}
		c.query = append(c.query, queryMatch{q.Name, m})
	}
	if err := c.compileClaims(r.Match.Claims); err != nil {
		return nil, err
	}
	if r.CORS != nil {
		for _, o := range r.CORS.Origins {
			m, err := compileText(o)
			if err != nil {
				return nil, fmt.Errorf("cors: origin: %w", err)
			}
			c.origins = append(c.origins, m)
		}
	}
	if f := r.Forward; f != nil {
		if len(f.Clusters) == 0 {
			return nil, fmt.Errorf("no cluster to forward to")
		}
		for _, w := range f.Clusters {
			c.weights += uint64(w.Weight)
		}
		if f.RegexRewrite != nil {
			var err error
			if c.rewrite, err = regexp.Compile(f.RegexRewrite.Match); err != nil {
				return nil, fmt.Errorf("rewrite: %w", err)
			}
			c.substitute = goTemplate(f.RegexRewrite.Substitution)
		}
	}
	return c, nil
}

// Match finds the route of a request. It does not allocate unless the
// configuration has regular expressions that do.
func (t *Table) Match(r *Request) (*Route, Miss) {
	vh := t.virtualHost(r.Host)
	if vh == nil {
		return nil, NoVirtualHost
	}
	for _, c := range vh.routes {
		if _, ok := c.matches(r); ok {
			return c, Matched
		}
	}
	return nil, NoRoute
}

// virtualHost finds the most specific domain. The port is compared only with
// exact domains that name one; otherwise it is no part of the host (Istio sets
// ignore_port_in_host_matching).
func (t *Table) virtualHost(host string) *virtualHost {
	if hasUpper(host) {
		host = strings.ToLower(host)
	}
	if vh := t.exact[host]; vh != nil {
		return vh
	}
	bare := StripPort(host)
	if bare != host {
		if vh := t.exact[bare]; vh != nil {
			return vh
		}
	}
	for _, w := range t.suffixes {
		if len(bare) > len(w.text) && strings.HasSuffix(bare, w.text) {
			return w.vh
		}
	}
	for _, w := range t.prefixes {
		if len(bare) > len(w.text) && strings.HasPrefix(bare, w.text) {
			return w.vh
		}
	}
	return t.any
}

func hasUpper(s string) bool {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return true
		}
	}
	return false
}

// StripPort takes the port off a host, if it has one.
func StripPort(host string) string {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.IndexByte(host[i:], ']') >= 0 || strings.IndexByte(host[:i], ':') >= 0 && !strings.HasPrefix(host, "[") {
		return host
	}
	return host[:i]
}

// matches reports whether the route takes the request; otherwise reason is
// the condition that failed.
func (c *Route) matches(r *Request) (reason, bool) {
	if c.path != nil && !c.path.match(r.Path) {
		return reason{"path", "", c.path, r.Path, true}, false
	}
	for i := range c.headers {
		h := &c.headers[i]
		v, ok := r.header(h.Name)
		got := ok && h.text.match(v)
		if !ok && h.TreatMissingAsEmpty {
			got = h.text.match("")
		}
		if got == h.Invert {
			return reason{"header", h.Name, &h.text, v, ok}, false
		}
	}
	for i := range c.query {
		q := &c.query[i]
		v, ok := queryValue(r.Query, q.name)
		if !ok || !q.text.match(v) {
			return reason{"query", q.name, &q.text, v, ok}, false
		}
	}
	return c.claimsMatch(r)
}

type reason struct {
	what    string // path, header, query, claim
	name    string // of the header, parameter or claim
	want    *text
	got     string
	present bool
}

func (r *Request) header(name string) (string, bool) {
	switch name {
	case ":method":
		return r.Method, true
	case ":scheme":
		return r.Scheme, true
	case ":authority", "host":
		return r.Host, true
	case ":path":
		return r.Path, true
	}
	if r.Headers == nil {
		return "", false
	}
	return r.Headers.Get(name)
}

// queryValue finds the first value of a parameter, undecoded, as Envoy
// compares it.
func queryValue(query, name string) (string, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(pair, "=")
		if k == name {
			return v, true
		}
	}
	return "", false
}

// PickCluster maps a random number to an index of Forward.Clusters by weight.
func (c *Route) PickCluster(rnd uint64) int {
	if c.weights == 0 {
		return 0
	}
	at := rnd % c.weights
	for i := range c.Forward.Clusters {
		w := uint64(c.Forward.Clusters[i].Weight)
		if at < w {
			return i
		}
		at -= w
	}
	return 0
}
