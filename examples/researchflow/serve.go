package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	maxBody = 1 << 20          // bytes of a request body
	grace   = 10 * time.Second // how long a stopping server waits for its requests
)

// environ reads the environment; tests give a map's lookup.
type environ func(string) string

// text returns the variable, or fallback when it is empty.
func (e environ) text(name, fallback string) string {
	if v := e(name); v != "" {
		return v
	}
	return fallback
}

// duration returns the variable as a Go duration, which must be positive.
func (e environ) duration(name string, fallback time.Duration) (time.Duration, error) {
	v := e(name)
	if v == "" {
		return fallback, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s=%q is not a positive duration such as 300ms", name, v)
	}
	return d, nil
}

// address is where the role listens: every interface, port PORT.
func (e environ) address(fallbackPort string) string {
	return ":" + e.text("PORT", fallbackPort)
}

// hostname is the name a replica goes by in its answers.
func (e environ) hostname() string {
	if v := e("HOSTNAME"); v != "" {
		return v
	}
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func newLogger(w io.Writer, env environ, role string) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(env.text("LOG_LEVEL", "info"))); err != nil {
		return nil, fmt.Errorf("LOG_LEVEL: %w", err)
	}
	h := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	return slog.New(h).With("role", role, "host", env.hostname()), nil
}

// together runs every server until ctx ends or one of them fails, stops the
// others, waits for all and returns the first error.
func together(ctx context.Context, servers ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
	)
	for _, serve := range servers {
		wg.Go(func() {
			if err := serve(ctx); err != nil {
				once.Do(func() { first = err })
			}
			cancel()
		})
	}
	wg.Wait()
	return first
}

// listenHTTP serves h on address until ctx ends.
func listenHTTP(ctx context.Context, log *slog.Logger, address string, h http.Handler) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return serveHTTP(ctx, log, ln, h)
}

// serveHTTP serves h until ctx ends, then gives open requests the grace time.
// There is no write timeout: a worker's answer lasts as long as its job.
func serveHTTP(ctx context.Context, log *slog.Logger, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           withTrace(logged(log, http.MaxBytesHandler(h, maxBody))),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	log.Info("listening", "address", ln.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		srv.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveTCP hands each connection to handle, which owns it until it returns;
// past limit connections refuse (may be nil) gets them instead. When ctx ends
// the listener and every connection are closed and their handlers waited for.
func serveTCP(ctx context.Context, log *slog.Logger, ln net.Listener, limit int, refuse, handle func(net.Conn)) error {
	log.Info("listening", "address", ln.Addr().String())
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	slots := make(chan struct{}, limit)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case slots <- struct{}{}:
		default:
			if refuse != nil {
				conn.SetDeadline(time.Now().Add(time.Second))
				refuse(conn)
			}
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			handle(conn)
		})
	}
}

// statusWriter remembers the status for the log. Unwrap lets
// http.ResponseController flush and hijack through it.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// logged writes one line per request: at level debug for a read that went
// well, so that a load test does not measure the log, at info for the rest.
func logged(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		sw := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(sw, r)
		level := slog.LevelInfo
		if r.Method == http.MethodGet && sw.status < 400 || r.URL.Path == "/readyz" {
			level = slog.LevelDebug
		}
		log.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path,
			"status", sw.status, "ms", time.Since(start).Milliseconds(), "request_id", r.Header.Get("X-Request-Id"))
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"cannot encode the answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

func writeError(w http.ResponseWriter, status int, format string, args ...any) {
	writeJSON(w, status, map[string]string{"error": fmt.Sprintf(format, args...)})
}

// readJSON decodes exactly one JSON value from the body into v. On failure it
// has answered (400, or 413 past maxBody) and returns false.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	err := dec.Decode(v)
	if err == nil {
		if _, err = dec.Token(); err == io.EOF {
			return true
		}
		if err == nil {
			err = errors.New("text after the JSON value")
		}
	}
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		writeError(w, http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", tooBig.Limit)
		return false
	}
	writeError(w, http.StatusBadRequest, "the body is not the JSON expected: %v", err)
	return false
}

// newTransport keeps enough idle connections for a load test. It uses no HTTP
// proxy: the mesh is the proxy.
func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		DialContext:           dialer.DialContext,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
	}
}

type traceKey struct{}

// traceHeaders picks the headers that tie the hops of one request together.
// A sidecar sees both hops but only the application knows they belong together.
func traceHeaders(h http.Header) http.Header {
	var kept http.Header
	for name, values := range h {
		switch {
		case name == "Traceparent", name == "Tracestate", name == "B3", name == "X-Request-Id",
			strings.HasPrefix(name, "X-B3-"):
			if kept == nil {
				kept = http.Header{}
			}
			kept[name] = values
		}
	}
	return kept
}

// withTrace puts the tracing headers of the request in its context.
func withTrace(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := traceHeaders(r.Header); h != nil {
			r = r.WithContext(context.WithValue(r.Context(), traceKey{}, h))
		}
		next.ServeHTTP(w, r)
	})
}

// newRequest is http.NewRequestWithContext plus the tracing headers of ctx.
func newRequest(ctx context.Context, method, url string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	if h, ok := ctx.Value(traceKey{}).(http.Header); ok {
		for name, values := range h {
			req.Header[name] = append([]string(nil), values...)
		}
	}
	return req, nil
}
