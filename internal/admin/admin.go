// Package admin serves the debug pages of one process: a proxy's or the
// control plane's. The pages list themselves at "/". They belong on loopback:
// what they show (and /quitquitquit) is for the machine's owner only.
package admin

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// Pages is an http.Handler made of pages that describe themselves. Add every
// page before serving; serving is safe for concurrent use.
type Pages struct {
	title string
	mux   *http.ServeMux
	list  []page
}

type page struct{ path, what string }

// New returns pages with an index and Go's profiles.
func New(title string) *Pages {
	p := &Pages{title: title, mux: http.NewServeMux()}
	p.mux.HandleFunc("GET /{$}", p.index)
	p.mux.HandleFunc("GET /help", p.index)
	p.Handle("GET /debug/pprof/", "Go profiles: heap, goroutine, profile?seconds=10", http.HandlerFunc(pprof.Index))
	p.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	p.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return p
}

// Handle adds a page. pattern is a method and path as net/http's ServeMux
// takes them.
func (p *Pages) Handle(pattern, what string, h http.Handler) {
	p.mux.Handle(pattern, h)
	_, path, ok := strings.Cut(pattern, " ")
	if !ok {
		path = pattern
	}
	p.list = append(p.list, page{path, what})
}

// JSON adds a page that shows a value, taken anew at each request.
func (p *Pages) JSON(path, what string, value func() any) {
	p.Handle("GET "+path, what, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		WriteJSON(w, http.StatusOK, value())
	}))
}

// Metrics adds a page in Prometheus's text format.
func (p *Pages) Metrics(path string, collectors ...telemetry.Collector) {
	p.Handle("GET "+path, "metrics in Prometheus's text format", MetricsHandler(collectors...))
}

// MetricsHandler serves collectors in Prometheus's text format.
func MetricsHandler(collectors ...telemetry.Collector) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var e telemetry.Exposition
		for _, c := range collectors {
			c.Collect(&e)
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = e.WriteTo(w) // the scraper has gone; nobody is left to tell
	})
}

// ServeHTTP implements http.Handler.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

func (p *Pages) index(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		for _, pg := range p.list {
			fmt.Fprintf(w, "%-28s %s\n", pg.path, pg.what)
		}
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<!doctype html><title>%s</title><h1>%[1]s</h1><dl>", html.EscapeString(p.title))
	for _, pg := range p.list {
		fmt.Fprintf(w, `<dt><a href="%s">%[1]s</a><dd>%s`, html.EscapeString(pg.path), html.EscapeString(pg.what))
	}
	_, _ = io.WriteString(w, "</dl>")
}

// WriteJSON answers with an indented document.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // headers are out; a failing connection shows on its own
}
