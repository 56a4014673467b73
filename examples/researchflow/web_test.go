package main

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func TestWebServesThePage(t *testing.T) {
	h, err := webHandler()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		status int
		kind   string
	}{
		{"/", 200, "text/html"},
		{"/static/app.js", 200, "text/javascript"},
		{"/static/style.css", 200, "text/css"},
		{"/static/", 404, ""},
		{"/static/none.js", 404, ""},
		{"/api/jobs", 404, ""},
		{"/healthz", 200, "application/json"},
		{"/readyz", 200, "application/json"},
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", c.path, nil))
		if rec.Code != c.status || !strings.HasPrefix(rec.Header().Get("Content-Type"), c.kind) {
			t.Errorf("%s: %d %s", c.path, rec.Code, rec.Header().Get("Content-Type"))
		}
		if !strings.Contains(rec.Header().Get("Content-Security-Policy"), "default-src 'self'") {
			t.Errorf("%s: no policy", c.path)
		}
	}
}

// The script finds every element it asks for, and the policy allows the page:
// nothing inline, nothing from elsewhere.
func TestWebPageAndScriptAgree(t *testing.T) {
	read := func(name string) string {
		b, err := page.ReadFile("web/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	html, js := read("index.html"), read("static/app.js")
	for _, m := range regexp.MustCompile(`\$\("([^"]+)"\)`).FindAllStringSubmatch(js, -1) {
		if !strings.Contains(html, `id="`+m[1]+`"`) {
			t.Errorf("app.js asks for %s, which index.html has not", m[1])
		}
	}
	if regexp.MustCompile(`<script>|<style|style=|\son\w+=|https?://`).MatchString(html) {
		t.Error("index.html has something inline or foreign")
	}
}
