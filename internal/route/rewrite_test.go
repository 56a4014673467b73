package route

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func TestRewritePath(t *testing.T) {
	for _, tc := range []struct {
		name    string
		match   *ir.Match
		rewrite ir.Forward
		in, out string
	}{
		{"none", ptr(prefix("/a")), ir.Forward{}, "/a/b", "/a/b"},
		{"prefix", ptr(prefix("/a")), ir.Forward{PrefixRewrite: "/z"}, "/a/b", "/z/b"},
		{"prefix of the string", ptr(prefix("/a")), ir.Forward{PrefixRewrite: "/z"}, "/ab", "/zb"},
		{"prefix, whole", ptr(prefix("/a")), ir.Forward{PrefixRewrite: "/z"}, "/a", "/z"},
		{"prefix, case ignored", ptr(folded(prefix("/a"))), ir.Forward{PrefixRewrite: "/z"}, "/A/b", "/z/b"},
		{"prefix to root", ptr(prefix("/a")), ir.Forward{PrefixRewrite: "/"}, "/a/b", "//b"},
		{"prefix to root, whole", ptr(prefix("/a")), ir.Forward{PrefixRewrite: "/"}, "/a", "/"},
		{"prefix with slash to root", ptr(prefix("/a/")), ir.Forward{PrefixRewrite: "/"}, "/a/b", "/b"},
		{"exact replaces all", ptr(exact("/a")), ir.Forward{PrefixRewrite: "/z"}, "/a", "/z"},
		{"regex match replaces all", ptr(regex("/a.*")), ir.Forward{PrefixRewrite: "/z"}, "/a/b", "/z"},
		// No path asked for is the prefix "/", as Istio tells Envoy.
		{"no path, root", nil, ir.Forward{PrefixRewrite: "/"}, "/a/b", "/a/b"},
		{"no path, prefix", nil, ir.Forward{PrefixRewrite: "/v1/"}, "/a/b", "/v1/a/b"},
		{"no path, no slash", nil, ir.Forward{PrefixRewrite: "/v1"}, "/a/b", "/v1a/b"},
		{"regex", nil, ir.Forward{RegexRewrite: &ir.RegexRewrite{Match: "^/service/([^/]+)(/.*)$", Substitution: `\2/instance/\1`}}, "/service/foo/v1/api", "/v1/api/instance/foo"},
		{"regex, every match", nil, ir.Forward{RegexRewrite: &ir.RegexRewrite{Match: "one", Substitution: "two"}}, "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"},
		{"regex, no match", nil, ir.Forward{RegexRewrite: &ir.RegexRewrite{Match: "q", Substitution: "two"}}, "/one", "/one"},
		{"regex, dollar is a dollar", nil, ir.Forward{RegexRewrite: &ir.RegexRewrite{Match: "(one)", Substitution: `$1\1\\`}}, "/one", `/$1one\`},
		{"regex, digit after group", nil, ir.Forward{RegexRewrite: &ir.RegexRewrite{Match: "(o)ne", Substitution: `\10`}}, "/one", "/o0"},
		{"regex, whole match", nil, ir.Forward{RegexRewrite: &ir.RegexRewrite{Match: "one", Substitution: `<\0>`}}, "/one", "/<one>"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tc.rewrite
			f.Clusters = to("c").Clusters
			r, miss := mustNew(t, &ir.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{Match: ir.RouteMatch{Path: tc.match}, Forward: &f}}}).Match(&Request{Path: tc.in})
			if miss != Matched {
				t.Fatal("no match")
			}
			if got := r.RewritePath(tc.in); got != tc.out {
				t.Errorf("%s: have %s, want %s", tc.in, got, tc.out)
			}
		})
	}
}

func TestRedirectPath(t *testing.T) {
	for _, tc := range []struct {
		match        ir.Match
		with, in, to string
	}{
		{prefix("/old"), "/new", "/old/x", "/new/x"},
		{prefix("/old/"), "/", "/old/x", "/x"},
		{exact("/old"), "/new", "/old", "/new"},
	} {
		r, _ := mustNew(t, &ir.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{Match: path(tc.match), Redirect: &ir.Redirect{Prefix: tc.with}}}}).Match(&Request{Path: tc.in})
		if got := r.RedirectPath(tc.in); got != tc.to {
			t.Errorf("%s with %s: have %s, want %s", tc.in, tc.with, got, tc.to)
		}
	}
}

func TestNormalizePath(t *testing.T) {
	const bad = "refused"
	for _, tc := range []struct{ in, none, base, merge, decode string }{
		{"/", "/", "/", "/", "/"},
		{"/a/b", "/a/b", "/a/b", "/a/b", "/a/b"},
		{"*", "*", "*", "*", "*"},
		{"/a/./b", "/a/./b", "/a/b", "/a/b", "/a/b"},
		{"/a/../b", "/a/../b", "/b", "/b", "/b"},
		{"/a/..", "/a/..", "/", "/", "/"},
		{"/a/.", "/a/.", "/a/", "/a/", "/a/"},
		{"/a/...", "/a/...", "/a/...", "/a/...", "/a/..."},
		{"/..", "/..", bad, bad, bad},
		{"/a/../../b", "/a/../../b", bad, bad, bad},
		{`/a\b`, `/a\b`, "/a/b", "/a/b", "/a/b"},
		{`/a\..\b`, `/a\..\b`, "/b", "/b", "/b"},
		{"/a//b", "/a//b", "/a//b", "/a/b", "/a/b"},
		{"//a", "//a", "//a", "/a", "/a"},
		{"/a///b//", "/a///b//", "/a///b//", "/a/b/", "/a/b/"},
		// Dot segments go before slashes merge, as in Envoy: the empty segment is the one that ".." takes.
		{"/a//../b", "/a//../b", "/a/b", "/a/b", "/a/b"},
		{"/a/%2e%2e/b", "/a/%2e%2e/b", "/b", "/b", "/b"},
		{"/%61dmin", "/%61dmin", "/admin", "/admin", "/admin"},
		{"/a%2fb", "/a%2fb", "/a%2fb", "/a%2fb", "/a/b"},
		{"/a%5cb", "/a%5cb", "/a%5cb", "/a%5cb", "/a/b"},
		{"/a%2F%2Fb", "/a%2F%2Fb", "/a%2F%2Fb", "/a%2F%2Fb", "/a/b"},
		{"/a%2f..%2fb", "/a%2f..%2fb", "/a%2f..%2fb", "/a%2f..%2fb", "/b"},
		{"/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"}, // decoded once only
		{"/a%20b", "/a%20b", "/a%20b", "/a%20b", "/a%20b"},
		{"/a%", "/a%", bad, bad, bad},
		{"/a%2", "/a%2", bad, bad, bad},
		{"/a%zz", "/a%zz", bad, bad, bad},
		{"/a%00", "/a%00", bad, bad, bad},
	} {
		for mode, want := range map[string]string{"NONE": tc.none, "": tc.base, "BASE": tc.base, "MERGE_SLASHES": tc.merge, "DECODE_AND_MERGE_SLASHES": tc.decode} {
			got, err := NormalizePath(mode, tc.in)
			if err != nil {
				got = bad
			}
			if got != want {
				t.Errorf("%s %q: have %q, want %q", mode, tc.in, got, want)
			}
		}
	}
}

// What is normal stays as it is: routing, authorization and the upstream must
// not see three different paths.
func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/", `/\..\`, "//a//%2F", "/a%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if path == "" || path[0] != '/' {
			return // no request has it
		}
		for _, mode := range []string{"", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"} {
			once, err := NormalizePath(mode, path)
			if err != nil {
				continue
			}
			if twice, err := NormalizePath(mode, once); err != nil || twice != once {
				t.Errorf("%s %q: %q, then %q (%v)", mode, path, once, twice, err)
			}
			// What an application makes of the path that dots and slashes are
			// gone from must be what policies saw.
			merged, decoded := mode != "", mode == "DECODE_AND_MERGE_SLASHES"
			upper := strings.ToUpper(once)
			switch {
			case strings.Contains(once, "/./") || strings.Contains(once, "/../") || strings.HasSuffix(once, "/.") || strings.HasSuffix(once, "/.."),
				strings.Contains(once, `\`),
				strings.Contains(upper, "%2E") || strings.Contains(upper, "%61") || strings.Contains(upper, "%00"),
				merged && strings.Contains(once, "//"),
				decoded && (strings.Contains(upper, "%2F") || strings.Contains(upper, "%5C")):
				t.Errorf("%s %q is not normal: %q", mode, path, once)
			}
		}
	})
}
