package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// mountHealth adds GET /healthz (alive: always 200) and GET /readyz (200, or
// 503 with the reason while ready returns an error). A nil ready is ready.
func mountHealth(mux *http.ServeMux, ready func(context.Context) error) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if ready != nil {
			if err := ready(r.Context()); err != nil {
				writeError(w, http.StatusServiceUnavailable, "not ready: %v", err)
				return
			}
		}
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	})
}

// healthPort is the side port of the roles that do not speak HTTP, for probes:
// HEALTH_PORT, none by default.
func healthPort(env environ) (address string, h http.Handler) {
	port := env("HEALTH_PORT")
	if port == "" {
		return "", nil
	}
	mux := http.NewServeMux()
	mountHealth(mux, nil)
	return ":" + port, mux
}

// readiness asks every probe at most once per ttl and remembers the answer, so
// that probes from many callers do not become load. Safe for concurrent use.
type readiness struct {
	ttl     time.Duration // how long an answer holds
	timeout time.Duration // for one round of probes
	probes  []func(context.Context) error

	mu  sync.Mutex
	at  time.Time // guarded by mu; zero before the first round
	err error     // guarded by mu
}

func newReadiness(probes ...func(context.Context) error) *readiness {
	return &readiness{ttl: time.Second, timeout: time.Second, probes: probes}
}

// check returns nil when every probe did.
func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.at.IsZero() && time.Since(r.at) < r.ttl {
		return r.err
	}
	// The answer is for everybody: a caller that hangs up must not spoil it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.timeout)
	defer cancel()
	errs := make([]error, len(r.probes))
	var wg sync.WaitGroup
	for i, probe := range r.probes {
		wg.Go(func() { errs[i] = probe(ctx) })
	}
	wg.Wait()
	r.err, r.at = errors.Join(errs...), time.Now()
	return r.err
}

// probePostgres logs in at address as researchflow without a password, up to
// the first ReadyForQuery.
func probePostgres(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		defer conn.Close()
		if deadline, ok := ctx.Deadline(); ok {
			conn.SetDeadline(deadline)
		}
		if err := postgresLogin(conn); err != nil {
			return fmt.Errorf("postgres at %s: %w", address, err)
		}
		return nil
	}
}

func postgresLogin(conn io.ReadWriter) error {
	startup := make([]byte, 8)
	startup = append(startup, "user\x00researchflow\x00database\x00researchflow\x00\x00"...)
	binary.BigEndian.PutUint32(startup, uint32(len(startup)))
	binary.BigEndian.PutUint32(startup[4:], postgresProtocol)
	if _, err := conn.Write(startup); err != nil {
		return err
	}
	for {
		kind, body, err := readPostgres(conn)
		if err != nil {
			return err
		}
		switch kind {
		case 'R':
			if !bytes.Equal(body, []byte{0, 0, 0, 0}) {
				return errors.New("it wants a password")
			}
		case 'E':
			return fmt.Errorf("it refused: %s", postgresMessage(body))
		case 'Z':
			_, err := conn.Write([]byte{'X', 0, 0, 0, 4})
			return err
		}
	}
}

// postgresMessage is the human part of an ErrorResponse.
func postgresMessage(body []byte) string {
	for field := range bytes.SplitSeq(body, []byte{0}) {
		if len(field) > 0 && field[0] == 'M' {
			return string(field[1:])
		}
	}
	return "no message"
}
