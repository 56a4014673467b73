package route

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// RewritePath applies the route's rewrite to a path without query. With a
// prefix match the prefix is replaced; with any other match the whole path is
// (VirtualService rewrite.uri). No path match is the prefix "/". As in Envoy
// this is replacement of text: "/a" by "/" makes "/a/b" into "//b".
func (c *Route) RewritePath(path string) string {
	f := c.Forward
	switch {
	case c.rewrite != nil:
		return c.rewrite.ReplaceAllString(path, c.substitute)
	case f.PrefixRewrite == "":
		return path
	}
	return c.replacePrefix(path, f.PrefixRewrite)
}

// RedirectPath is RewritePath for Redirect.Prefix.
func (c *Route) RedirectPath(path string) string { return c.replacePrefix(path, c.Redirect.Prefix) }

func (c *Route) replacePrefix(path, with string) string {
	n := 1
	if c.path != nil {
		if c.path.Kind != ir.Prefix {
			return with
		}
		n = len(c.path.Value)
	}
	return with + path[min(n, len(path)):]
}

// AllowsOrigin reports whether the route's CORS policy allows an origin.
func (c *Route) AllowsOrigin(origin string) bool {
	for i := range c.origins {
		if c.origins[i].match(origin) {
			return true
		}
	}
	return false
}

// goTemplate turns RE2's \1 into regexp's ${1}.
func goTemplate(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && '0' <= s[i+1] && s[i+1] <= '9':
			b.WriteString("${" + s[i+1:i+2] + "}")
			i++
		case s[i] == '\\' && i+1 < len(s):
			b.WriteByte(s[i+1])
			i++
		case s[i] == '$':
			b.WriteString("$$")
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
