package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/header"
)

// FuzzForward: whatever this codec accepts and writes again, net/http must
// read as one request with the same method, host and body, and nothing behind.
func FuzzForward(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
		"GET http://a/b HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\nX: y\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h, body, r, err := readAll(bytes.NewReader(in))
		if err != nil || h.Host == "" || h.Path == "*" {
			return
		}
		out := AppendRequest(nil, h)
		if h.Framing == header.Open {
			out = AppendChunk(out, []byte(body))
			out = AppendLastChunk(out, r.Trailers())
		} else {
			out = append(out, body...)
		}
		br := bufio.NewReader(bytes.NewReader(out))
		req, err := http.ReadRequest(br)
		if err != nil {
			// net/http is stricter about URLs and hosts than HTTP is; that is a
			// refusal, not an ambiguity.
			if strings.Contains(err.Error(), "invalid URI") || strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "malformed Host") || strings.Contains(err.Error(), "invalid method") {
				return
			}
			t.Fatalf("net/http refuses what we forward: %v\n%q", err, out)
		}
		got, err := io.ReadAll(req.Body)
		if err != nil || string(got) != body {
			t.Fatalf("body %q, want %q (%v)", got, body, err)
		}
		if req.Method != h.Method {
			t.Fatalf("method %q, want %q", req.Method, h.Method)
		}
		if rest, _ := io.ReadAll(br); len(rest) != 0 {
			t.Fatalf("%q is left behind the request", rest)
		}
	})
}
