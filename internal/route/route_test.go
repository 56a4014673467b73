package route

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

type headers map[string]string

func (h headers) Get(name string) (string, bool) { v, ok := h[name]; return v, ok }

func to(name string) *ir.Forward {
	return &ir.Forward{Clusters: []ir.WeightedCluster{{Name: name}}}
}

func exact(s string) ir.Match    { return ir.Match{Kind: ir.Exact, Value: s} }
func prefix(s string) ir.Match   { return ir.Match{Kind: ir.Prefix, Value: s} }
func regex(s string) ir.Match    { return ir.Match{Kind: ir.Regex, Value: s} }
func folded(m ir.Match) ir.Match { m.IgnoreCase = true; return m }

var present = ir.Match{Kind: ir.Present}

func path(m ir.Match) ir.RouteMatch { return ir.RouteMatch{Path: &m} }
func header(name string, m ir.Match) ir.RouteMatch {
	return ir.RouteMatch{Headers: []ir.HeaderMatch{{Name: name, Value: m}}}
}
func without(name string, m ir.Match) ir.RouteMatch {
	return ir.RouteMatch{Headers: []ir.HeaderMatch{{Name: name, Value: m, Invert: true, TreatMissingAsEmpty: m.Kind != ir.Present}}}
}
func query(name string, m ir.Match) ir.RouteMatch {
	return ir.RouteMatch{Query: []ir.QueryMatch{{Name: name, Value: m}}}
}

// table has one virtual host for every domain, with the given routes; each
// forwards to a cluster named after its place.
func table(t *testing.T, matches ...ir.RouteMatch) *Table {
	t.Helper()
	vh := &ir.VirtualHost{Name: "vh", Domains: []string{"*"}}
	for i, m := range matches {
		vh.Routes = append(vh.Routes, &ir.Route{Name: string(rune('a' + i)), Match: m, Forward: to("c")})
	}
	return mustNew(t, vh)
}

func mustNew(t *testing.T, hosts ...*ir.VirtualHost) *Table {
	t.Helper()
	tab, err := New(&ir.RouteTable{Name: "t", VirtualHosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		name  string
		match ir.RouteMatch
		yes   []Request
		no    []Request
	}{
		{"nothing said matches all", ir.RouteMatch{}, []Request{{Path: "/"}, {Path: ""}, {Path: "*"}}, nil},
		{"exact", path(exact("/a")), []Request{{Path: "/a"}}, []Request{{Path: "/a/"}, {Path: "/A"}, {Path: "/ab"}, {Path: ""}}},
		// VS22: a prefix is one of the string, not of path segments.
		{"prefix", path(prefix("/foo")), []Request{{Path: "/foo"}, {Path: "/foobar"}, {Path: "/foo/bar"}}, []Request{{Path: "/fo"}, {Path: "/Foo"}, {Path: "/x/foo"}}},
		// VS32: RE2, the full string.
		{"regex is the whole string", path(regex("/v[0-9]+")), []Request{{Path: "/v12"}}, []Request{{Path: "/v12/x"}, {Path: "/x/v12"}, {Path: "/v12\n"}}},
		{"regex alternatives are anchored both", path(regex("/a|/b")), []Request{{Path: "/a"}, {Path: "/b"}}, []Request{{Path: "/ax"}, {Path: "x/b"}}},
		// VS23: exact and prefix only.
		{"exact, case ignored", path(folded(exact("/Api"))), []Request{{Path: "/api"}, {Path: "/API"}}, []Request{{Path: "/apis"}}},
		{"prefix, case ignored", path(folded(prefix("/Api"))), []Request{{Path: "/aPI/x"}}, []Request{{Path: "/ap"}}},
		{"regex, case never ignored", path(folded(regex("/api"))), []Request{{Path: "/api"}}, []Request{{Path: "/API"}}},
		{"method", header(":method", exact("GET")), []Request{{Method: "GET"}}, []Request{{Method: "POST"}, {Method: "get"}, {}}},
		{"method regex", header(":method", regex("GET|HEAD")), []Request{{Method: "HEAD"}}, []Request{{Method: "GETX"}}},
		{"scheme", header(":scheme", exact("https")), []Request{{Scheme: "https"}}, []Request{{Scheme: "http"}}},
		{"authority keeps its port", header(":authority", exact("a.b:80")), []Request{{Host: "a.b:80"}}, []Request{{Host: "a.b"}}},
		{"authority prefix", header(":authority", prefix("a.")), []Request{{Host: "a.b"}}, []Request{{Host: "b.a."}}},
		{"header exact", header("x-user", exact("jason")), []Request{{Headers: headers{"x-user": "jason"}}}, []Request{{Headers: headers{"x-user": "jasonx"}}, {Headers: headers{}}, {}}},
		{"header prefix", header("x-user", prefix("ja")), []Request{{Headers: headers{"x-user": "jason"}}}, []Request{{Headers: headers{"x-user": "j"}}}},
		{"header regex", header("cookie", regex(".*user=jason.*")), []Request{{Headers: headers{"cookie": "a=b; user=jason"}}}, []Request{{Headers: headers{"cookie": "a=b"}}}},
		// VS25: an empty StringMatch asks for presence.
		{"header present", header("x-user", present), []Request{{Headers: headers{"x-user": ""}}, {Headers: headers{"x-user": "v"}}}, []Request{{Headers: headers{"other": "v"}}, {}}},
		// VS26: the inverse; a missing header counts as empty.
		{"without header, any", without("x-user", present), []Request{{}, {Headers: headers{"y": "v"}}}, []Request{{Headers: headers{"x-user": ""}}, {Headers: headers{"x-user": "v"}}}},
		{"without header value", without("x-user", exact("bob")), []Request{{}, {Headers: headers{"x-user": "eve"}}}, []Request{{Headers: headers{"x-user": "bob"}}}},
		{"without header, empty value", without("x-user", exact("")), []Request{{Headers: headers{"x-user": "v"}}}, []Request{{}, {Headers: headers{"x-user": ""}}}},
		{"query exact", query("v", exact("2")), []Request{{Query: "v=2"}, {Query: "a=1&v=2"}, {Query: "v=2&v=3"}}, []Request{{Query: "v=22"}, {Query: ""}, {Query: "xv=2"}, {Query: "v=3&v=2"}, {Query: "V=2"}}},
		{"query prefix", query("v", prefix("2")), []Request{{Query: "v=22"}}, []Request{{Query: "v=12"}}},
		{"query regex", query("v", regex("[0-9]+")), []Request{{Query: "v=22"}}, []Request{{Query: "v=22x"}, {Query: "v="}}},
		{"query present", query("debug", present), []Request{{Query: "debug"}, {Query: "debug="}, {Query: "a&debug=1"}}, []Request{{Query: "debugger=1"}, {Query: "a=debug"}}},
		{"all must hold", ir.RouteMatch{Path: ptr(prefix("/a")), Headers: []ir.HeaderMatch{{Name: ":method", Value: exact("GET")}, {Name: "x", Value: present}}, Query: []ir.QueryMatch{{Name: "q", Value: exact("1")}}},
			[]Request{{Path: "/a", Method: "GET", Headers: headers{"x": ""}, Query: "q=1"}},
			[]Request{
				{Path: "/b", Method: "GET", Headers: headers{"x": ""}, Query: "q=1"}, {Path: "/a", Method: "PUT", Headers: headers{"x": ""}, Query: "q=1"},
				{Path: "/a", Method: "GET", Query: "q=1"}, {Path: "/a", Method: "GET", Headers: headers{"x": ""}, Query: "q=2"},
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tab := table(t, tc.match)
			for _, r := range tc.yes {
				if _, miss := tab.Match(&r); miss != Matched {
					t.Errorf("%+v does not match (%v)", r, miss)
				}
			}
			for _, r := range tc.no {
				if got, miss := tab.Match(&r); miss != NoRoute || got != nil {
					t.Errorf("%+v matches", r)
				}
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestFirstMatchWins(t *testing.T) {
	tab := table(t, path(exact("/a/b")), path(prefix("/a")), path(prefix("/a/b/c")), ir.RouteMatch{})
	for in, want := range map[string]string{"/a/b": "a", "/a/b/c/d": "b", "/a": "b", "/z": "d"} {
		if r, _ := tab.Match(&Request{Path: in}); r == nil || r.Name != want {
			t.Errorf("%s: have %+v, want route %s", in, r, want)
		}
	}
}

func TestDomains(t *testing.T) {
	var hosts []*ir.VirtualHost
	for _, d := range []string{"*", "*.example.com", "*.b.example.com", "www.*", "www.exam*", "a.b.example.com", "worker", "worker:8000", "10.1.2.3", "[::1]", "Upper.Case"} {
		hosts = append(hosts, &ir.VirtualHost{Name: d, Domains: []string{d}, Routes: []*ir.Route{{Forward: to("c")}}})
	}
	tab := mustNew(t, hosts...)
	for host, want := range map[string]string{
		"a.b.example.com":        "a.b.example.com",
		"A.B.Example.COM":        "a.b.example.com",
		"x.b.example.com":        "*.b.example.com", // the longer suffix
		"x.example.com":          "*.example.com",
		"www.example.com":        "*.example.com", // suffix before prefix
		"www.example.org":        "www.exam*",     // the longer prefix
		"www.other":              "www.*",
		"example.com":            "*", // a wildcard stands for something
		".example.com":           "*",
		"worker":                 "worker",
		"worker:8000":            "worker:8000",
		"worker:9":               "worker",
		"a.b.example.com:443":    "a.b.example.com",
		"A.B.example.com:443":    "a.b.example.com",
		"x.example.com:8080":     "*.example.com",
		"10.1.2.3:80":            "10.1.2.3",
		"[::1]:80":               "[::1]",
		"upper.case":             "Upper.Case",
		"":                       "*",
		"anything.else":          "*",
		"evil.com#.example.com:": "*.example.com",
	} {
		r, miss := tab.Match(&Request{Host: host})
		if miss != Matched || r.VirtualHost.Name != want {
			t.Errorf("%q: have %+v, want %s", host, r, want)
		}
	}
}

// An exact domain wins over a wildcard also when the Host has a port: the port
// is not part of the comparison.
func TestDomainExactBeforePrefixWithPort(t *testing.T) {
	one := func(d string) *ir.VirtualHost {
		return &ir.VirtualHost{Name: d, Domains: []string{d}, Routes: []*ir.Route{{Forward: to("c")}}}
	}
	tab := mustNew(t, one("www.*"), one("www.example.org"), one("*.example.net"))
	for host, want := range map[string]string{"www.example.org": "www.example.org", "www.example.org:8080": "www.example.org", "www.example.net:8080": "*.example.net", "www.:8080": ""} {
		r, _ := tab.Match(&Request{Host: host})
		got := ""
		if r != nil {
			got = r.VirtualHost.Name
		}
		if got != want {
			t.Errorf("%s: have %q, want %q", host, got, want)
		}
	}
}

func TestMisses(t *testing.T) {
	tab := mustNew(t, &ir.VirtualHost{Name: "v", Domains: []string{"a"}, Routes: []*ir.Route{{Match: path(exact("/x")), Forward: to("c")}}})
	if _, miss := tab.Match(&Request{Host: "b", Path: "/x"}); miss != NoVirtualHost {
		t.Errorf("unknown host: %v", miss)
	}
	if _, miss := tab.Match(&Request{Host: "a", Path: "/y"}); miss != NoRoute {
		t.Errorf("unknown path: %v", miss)
	}
}

func TestNewRefuses(t *testing.T) {
	vh := func(r *ir.Route) *ir.VirtualHost {
		return &ir.VirtualHost{Name: "vh", Domains: []string{"a"}, Routes: []*ir.Route{r}}
	}
	for name, tc := range map[string]struct {
		hosts []*ir.VirtualHost
		want  string
	}{
		"no action":       {[]*ir.VirtualHost{vh(&ir.Route{})}, "virtual host vh: route 0"},
		"two actions":     {[]*ir.VirtualHost{vh(&ir.Route{Forward: to("c"), Direct: &ir.DirectResponse{Status: 200}})}, "exactly one"},
		"no cluster":      {[]*ir.VirtualHost{vh(&ir.Route{Forward: &ir.Forward{}})}, "no cluster"},
		"bad path":        {[]*ir.VirtualHost{vh(&ir.Route{Match: path(regex("(")), Forward: to("c")})}, "path"},
		"unbalanced path": {[]*ir.VirtualHost{vh(&ir.Route{Match: path(regex("/a)|(?:/b")), Forward: to("c")})}, "path"},
		"bad header":      {[]*ir.VirtualHost{vh(&ir.Route{Match: header("x", regex("(")), Forward: to("c")})}, "header x"},
		"bad query":       {[]*ir.VirtualHost{vh(&ir.Route{Match: query("q", regex("(")), Forward: to("c")})}, "query parameter q"},
		"template":        {[]*ir.VirtualHost{vh(&ir.Route{Match: path(ir.Match{Kind: ir.Template, Value: "/{*}"}), Forward: to("c")})}, "not supported"},
		"bad rewrite":     {[]*ir.VirtualHost{vh(&ir.Route{Forward: &ir.Forward{Clusters: to("c").Clusters, RegexRewrite: &ir.RegexRewrite{Match: "("}}})}, "rewrite"},
		"domain twice":    {[]*ir.VirtualHost{{Name: "one", Domains: []string{"a"}}, {Name: "two", Domains: []string{"A"}}}, "taken by one"},
		"star twice":      {[]*ir.VirtualHost{{Name: "one", Domains: []string{"*"}}, {Name: "two", Domains: []string{"*"}}}, "taken by one"},
		"wildcard twice":  {[]*ir.VirtualHost{{Name: "one", Domains: []string{"*.a"}}, {Name: "two", Domains: []string{"*.A"}}}, "taken by one"},
	} {
		if _, err := New(&ir.RouteTable{VirtualHosts: tc.hosts}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: have error %v, want one about %q", name, err, tc.want)
		}
	}
}

func TestPickCluster(t *testing.T) {
	pick := func(weights ...uint32) []int {
		f := &ir.Forward{}
		for _, w := range weights {
			f.Clusters = append(f.Clusters, ir.WeightedCluster{Name: "c", Weight: w})
		}
		r, _ := mustNew(t, &ir.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{Forward: f}}}).Match(&Request{})
		counts := make([]int, len(weights))
		for i := range uint64(1000) {
			counts[r.PickCluster(i)]++
		}
		return counts
	}
	for _, tc := range []struct{ weights, want []int }{
		{[]int{0}, []int{1000}}, // VS34: a single destination takes all
		{[]int{7}, []int{1000}},
		{[]int{90, 10}, []int{900, 100}},
		{[]int{1, 1, 2}, []int{250, 250, 500}}, // shares, not percent
		{[]int{0, 5}, []int{0, 1000}},          // 0 beside siblings: none
		{[]int{5, 0}, []int{1000, 0}},
	} {
		w := make([]uint32, len(tc.weights))
		for i, v := range tc.weights {
			w[i] = uint32(v)
		}
		for i, n := range pick(w...) {
			if n != tc.want[i] {
				t.Errorf("weights %v: cluster %d got %d of 1000, want %d", tc.weights, i, n, tc.want[i])
			}
		}
	}
}

func TestStripPort(t *testing.T) {
	for in, want := range map[string]string{"a": "a", "a:80": "a", "[::1]": "[::1]", "[::1]:80": "[::1]", "::1": "::1", "": "", ":80": "", "a:": "a"} {
		if got := StripPort(in); got != want {
			t.Errorf("%q: have %q, want %q", in, got, want)
		}
	}
}

// The request path does not allocate for routing.
func TestMatchDoesNotAllocate(t *testing.T) {
	tab := table(t, path(exact("/nope")), query("v", exact("2")), header("x", exact("1")))
	r := &Request{Host: "worker:8000", Path: "/a", Query: "a=b&c=d", Headers: headers{"x": "1"}}
	if n := testing.AllocsPerRun(100, func() { tab.Match(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
