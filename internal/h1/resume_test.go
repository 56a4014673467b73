package h1

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/header"
)

// halting gives one byte, then an interruption, and so on.
type halting struct {
	rest  string
	halts bool
}

func (h *halting) Read(b []byte) (int, error) {
	if h.halts = !h.halts; h.halts {
		return 0, os.ErrDeadlineExceeded
	}
	if h.rest == "" {
		return 0, io.EOF
	}
	b[0], h.rest = h.rest[0], h.rest[1:]
	return 1, nil
}

// Who was interrupted in a body, wherever that was, goes on as if nothing had
// been: another try of the request depends on it.
func TestBodyGoesOnAfterInterruption(t *testing.T) {
	for name, raw := range map[string]string{
		"length":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello world",
		"chunks":            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6;ext=1\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
		"chunks, trailers":  "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\nx-sum: 42\r\nx-b: 5\r\n\r\n",
		"trailer like size": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n5: 1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			body, trailers := readHalting(t, raw)
			if want := strings.Count(raw[strings.Index(raw, "\r\n\r\n")+4:], ": "); string(body) != "hello world" || trailers != want {
				t.Errorf("read %q and %d trailers, want %d", body, trailers, want)
			}
		})
	}
}

func readHalting(t *testing.T, raw string) (body []byte, trailers int) {
	t.Helper()
	var r Reader
	var h header.Head
	end := strings.Index(raw, "\r\n\r\n") + 4
	r.Reset(io.MultiReader(strings.NewReader(raw[:end]), &halting{rest: raw[end:]}))
	if err := r.ReadRequest(&h); err != nil {
		t.Fatal(err)
	}
	for {
		b, done, err := r.Next()
		body = append(body, b...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			t.Fatal(err)
		case done:
			return body, len(r.Trailers())
		}
	}
}

// What is no chunk stays an error: reading on would take what follows for
// another.
func TestInvalidChunkStays(t *testing.T) {
	var r Reader
	var h header.Head
	r.Reset(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n5\r\nhello\r\n0\r\n\r\n"))
	if err := r.ReadRequest(&h); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if b, done, err := r.Next(); err == nil || done || len(b) > 0 {
			t.Fatalf("read %q, %v, %v", b, done, err)
		}
	}
}
