package main

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"net/http"
)

//go:embed web
var page embed.FS

// runWeb is the web role.
func runWeb(ctx context.Context, env environ, log *slog.Logger) error {
	h, err := webHandler()
	if err != nil {
		return err
	}
	return listenHTTP(ctx, log, env.address("80"), h)
}

// webHandler serves the page at / and its files under /static/. The page calls
// its own origin only; the gateway routes /api, /graphql and /ws elsewhere.
func webHandler() (http.Handler, error) {
	root, err := fs.Sub(page, "web")
	if err != nil {
		return nil, err
	}
	files := http.FileServerFS(root)
	mux := http.NewServeMux()
	mountHealth(mux, nil)
	mux.Handle("GET /{$}", files)
	mux.Handle("GET /static/{file}", files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-cache")
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	}), nil
}
