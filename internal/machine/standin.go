package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// StandIn is the program that stands for a workload nobody mapped. Arguments
// are name=port. HTTP ports answer with what they received, over HTTP/1.1 or
// HTTP/2 without TLS, and gRPC calls with UNIMPLEMENTED; ports whose names say
// otherwise echo bytes. Query parameters delay=2s and status=503 make one
// answer slow or wrong; POST /standin/fail?status=500&for=10s makes all wrong
// for a while.
func StandIn(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s := &standIn{}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, a := range args {
		name, portText, _ := strings.Cut(a, "=")
		port, err := strconv.Atoi(portText)
		if err != nil {
			return fmt.Errorf("standin: %q is not name=port", a)
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { l.Close() })
		word, _, _ := strings.Cut(name, "-")
		switch word {
		case "tcp", "redis", "postgres", "mysql", "mongo", "tls":
			wg.Go(func() { echo(l) })
		default:
			var protocols http.Protocols
			protocols.SetHTTP1(true)
			protocols.SetUnencryptedHTTP2(true)
			srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, Protocols: &protocols}
			wg.Go(func() {
				if err := srv.Serve(l); err != nil && ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, "standin:", err)
				}
			})
		}
	}
	fmt.Printf("stand-in for %s on %v\n", os.Getenv("HOSTNAME"), args)
	<-ctx.Done()
	return nil
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // either side may end it
		}()
	}
}

type standIn struct {
	failUntil atomic.Int64
	failWith  atomic.Int64
}

// ServeHTTP implements http.Handler.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz", "/readyz":
		fmt.Fprintln(w, "ok")
		return
	case "/standin/fail":
		if err := s.fail(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		return
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "12") // UNIMPLEMENTED, as a server without the method answers
		w.Header().Set("Grpc-Message", "the stand-in for "+os.Getenv("HOSTNAME")+" has no methods")
		return
	}
	status := http.StatusOK
	if time.Now().UnixNano() < s.failUntil.Load() {
		status = int(s.failWith.Load())
	}
	if v, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil && v >= 200 && v <= 599 {
		status = v
	}
	if d, err := time.ParseDuration(r.URL.Query().Get("delay")); err == nil {
		timer := time.NewTimer(min(d, 10*time.Minute))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // the caller may have gone
		"workload": os.Getenv("HOSTNAME"), "method": r.Method, "path": r.URL.RequestURI(), "host": r.Host,
		"caller": r.Header.Get("x-forwarded-client-cert"), "headers": r.Header, "remote": r.RemoteAddr,
	})
}

func (s *standIn) fail(r *http.Request) error {
	if r.Method != http.MethodPost {
		return errors.New("POST, with status and for")
	}
	status, err := strconv.Atoi(r.URL.Query().Get("status"))
	if err != nil || status < 200 || status > 599 {
		return errors.New("status: want 200 to 599")
	}
	d, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil {
		return fmt.Errorf("for: %w", err)
	}
	s.failWith.Store(int64(status))
	s.failUntil.Store(time.Now().Add(d).UnixNano())
	return nil
}
