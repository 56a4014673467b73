package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// dialPostgres is a connection served in this process; it ends with the test.
func dialPostgres(t *testing.T) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		handlePostgres(server)
		server.Close()
	}()
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	return client
}

func startup(code uint32, params string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(params)))
	return string(binary.BigEndian.AppendUint32(b, code)) + params
}

func message(kind byte, body string) string {
	return string(kind) + string(binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))) + body
}

// until reads messages up to and with one of kind, and returns their kinds and
// the text of all bodies.
func until(t *testing.T, conn net.Conn, kind byte) (kinds, bodies string) {
	t.Helper()
	for {
		k, body, err := readPostgres(conn)
		if err != nil {
			t.Fatalf("after %q %q: %v", kinds, bodies, err)
		}
		kinds += string(k)
		bodies += string(body)
		if k == kind {
			return kinds, bodies
		}
	}
}

func TestPostgresSession(t *testing.T) {
	conn := dialPostgres(t)
	send := func(s string) {
		t.Helper()
		if _, err := io.WriteString(conn, s); err != nil {
			t.Fatal(err)
		}
	}
	for _, code := range []uint32{postgresTLS, postgresGSS} {
		send(startup(code, ""))
		b := []byte{0}
		if _, err := io.ReadFull(conn, b); err != nil || b[0] != 'N' {
			t.Fatalf("request %d: %q %v", code, b, err)
		}
	}
	send(startup(postgresProtocol, "user\x00u\x00\x00"))
	if kinds, bodies := until(t, conn, 'Z'); kinds != "RSSSSSSZ" || !strings.Contains(bodies, "server_version\x00"+postgresVersion) {
		t.Errorf("welcome %q %q", kinds, bodies)
	}
	for _, c := range []struct{ query, kinds, text string }{
		{" SELECT  1 ; ", "TDCZ", "SELECT 1"},
		{"select version()", "TDCZ", "PostgreSQL"},
		{"show server_version", "TDCZ", postgresVersion},
		{";", "IZ", ""},
		{"drop table jobs", "EZ", "C0A000"},
	} {
		send(message('Q', c.query+"\x00"))
		if kinds, bodies := until(t, conn, 'Z'); kinds != c.kinds || !strings.Contains(bodies, c.text) {
			t.Errorf("%s: %q %q", c.query, kinds, bodies)
		}
	}
	// The extended protocol: one error, silence until Sync.
	go io.WriteString(conn, message('P', "\x00select 1\x00\x00\x00")+message('B', "")+message('E', "")+message('H', "")+message('S', ""))
	if kinds, _ := until(t, conn, 'Z'); kinds != "EZ" {
		t.Errorf("extended: %q", kinds)
	}
	send(message('X', ""))
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after Terminate: %v", err)
	}
}

func TestPostgresNegotiatesVersion(t *testing.T) {
	conn := dialPostgres(t)
	go io.WriteString(conn, startup(postgresProtocol+2, "user\x00u\x00_pq_.x\x001\x00\x00"))
	kind, body, err := readPostgres(conn)
	if err != nil || kind != 'v' || string(body) != "\x00\x03\x00\x00\x00\x00\x00\x01_pq_.x\x00" {
		t.Errorf("%q %q %v", kind, body, err)
	}
	until(t, conn, 'Z')
}

func TestPostgresRefuses(t *testing.T) {
	for name, c := range map[string]struct{ send, want string }{
		"old protocol": {startup(2<<16, "user\x00u\x00\x00"), "unsupported frontend protocol 2.0"},
		"no user":      {startup(postgresProtocol, "database\x00d\x00\x00"), "no PostgreSQL user"},
		"cancel":       {startup(postgresCancel, "12345678"), ""},
		"too long":     {"\x00\x01\x00\x00\x00\x03\x00\x00", ""},
		"too short":    {"\x00\x00\x00\x01\x00\x03\x00\x00", ""},
		"TLS for ever": {strings.Repeat(startup(postgresTLS, ""), 3), "NNN"},
		"odd message":  {startup(postgresProtocol, "user\x00u\x00\x00") + message('z', ""), "unknown message type"},
		"odd length":   {startup(postgresProtocol, "user\x00u\x00\x00") + "Q\x7f\x00\x00\x00", "invalid message length"},
	} {
		conn := dialPostgres(t)
		go io.WriteString(conn, c.send)
		b, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(b), c.want) || c.want == "" && len(b) > 0 {
			t.Errorf("%s: %q %v, want %q", name, b, err, c.want)
		}
	}
}

func TestPostgresProbe(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := probePostgres(startPostgres(t))(ctx); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct{ answer, want string }{
		"password": {message('R', "\x00\x00\x00\x03"), "wants a password"},
		"refusal":  {message('E', "SFATAL\x00Mgo away\x00\x00"), "go away"},
		"silence":  {"", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			go func() {
				io.ReadAtLeast(far, make([]byte, 1000), 9)
				io.WriteString(far, c.answer)
				far.Close()
			}()
			if err := postgresLogin(near); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// Many callers make one round of probes a second.
func TestReadinessIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rounds, broken := 0, true
		r := newReadiness(func(context.Context) error {
			if rounds++; broken {
				return io.ErrClosedPipe
			}
			return nil
		}, func(context.Context) error { return nil })
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // a caller that hung up does not decide for the others
		for range 5 {
			if err := r.check(ctx); err == nil {
				t.Error("ready with a broken probe")
			}
		}
		broken = false
		timer := time.NewTimer(time.Second)
		<-timer.C
		if err := r.check(ctx); err != nil || rounds != 2 {
			t.Errorf("%v after %d rounds", err, rounds)
		}
	})
}

func TestReadinessHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := newReadiness(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if err := r.check(t.Context()); err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestHealthPort(t *testing.T) {
	if _, h := healthPort(func(string) string { return "" }); h != nil {
		t.Error("a health port nobody asked for")
	}
	address, h := healthPort(func(string) string { return "8086" })
	for _, path := range []string{"/healthz", "/readyz"} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != 200 || address != ":8086" {
			t.Errorf("%s%s: %d", address, path, rec.Code)
		}
	}
}
