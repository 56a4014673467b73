package route

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func TestAllowsOrigin(t *testing.T) {
	cors := &ir.CORS{Origins: []ir.Match{exact("https://a.example"), prefix("https://b."), regex(`https://[a-z]+\.c\.example`)}}
	r, _ := mustNew(t, &ir.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{CORS: cors, Forward: to("c")}}}).Match(&Request{})
	for origin, want := range map[string]bool{
		"https://a.example": true, "https://A.example": false, "https://a.example.evil": false, "http://a.example": false,
		"https://b.anything": true, "https://x.c.example": true, "https://x.c.example.evil": false, "null": false,
	} {
		if r.AllowsOrigin(origin) != want {
			t.Errorf("%s: %v", origin, !want)
		}
	}
	any, _ := mustNew(t, &ir.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{CORS: &ir.CORS{Origins: []ir.Match{{Kind: ir.Present}}}, Forward: to("c")}}}).Match(&Request{})
	if !any.AllowsOrigin("https://whoever") {
		t.Error("* does not allow every origin")
	}
}

func TestBadOriginIsAnError(t *testing.T) {
	_, err := New(&ir.RouteTable{VirtualHosts: []*ir.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{CORS: &ir.CORS{Origins: []ir.Match{regex("(")}}, Forward: to("c")}}}}})
	if err == nil {
		t.Error("accepted")
	}
}

func TestLocation(t *testing.T) {
	for _, tc := range []struct {
		r                         ir.Redirect
		scheme, host, path, query string
		want                      string
	}{
		{ir.Redirect{Path: "/n"}, "http", "a", "/old", "?x", "http://a/n?x"},
		{ir.Redirect{Path: "/n?y"}, "http", "a", "/old", "?x", "http://a/n?y"},
		{ir.Redirect{Prefix: "/n"}, "https", "a:8443", "/old/b", "", "https://a:8443/n/b"},
		{ir.Redirect{Scheme: "http"}, "https", "a:443", "/old", "", "http://a/old"},
		{ir.Redirect{Scheme: "https"}, "http", "a:443", "/old", "", "https://a:443/old"},
		{ir.Redirect{HTTPS: true}, "http", "a:8080", "/old", "?x", "https://a/old?x"},
		{ir.Redirect{Port: 81}, "http", "[::1]", "/old", "", "http://[::1]:81/old"},
		{ir.Redirect{Host: "b"}, "http", "a:80", "/old", "", "http://b/old"},
	} {
		r, miss := mustNew(t, &ir.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*ir.Route{{Match: path(prefix("/old")), Redirect: &tc.r}}}).Match(&Request{Path: tc.path})
		if miss != Matched {
			t.Fatal(tc.path)
		}
		if got := r.Location(tc.scheme, tc.host, tc.path, tc.query); got != tc.want {
			t.Errorf("%+v %s: %s, want %s", tc.r, tc.host, got, tc.want)
		}
	}
}
