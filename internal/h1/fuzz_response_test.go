package h1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/header"
)

// FuzzResponse: whatever response this codec accepts and writes again, net/http
// must read as one response with the same status and body, and nothing behind.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\nx: y\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\nuntil the end",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 \r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 99 x\r\n\r\n", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		r := NewReader(bytes.NewReader(in))
		var h header.Head
		if r.ReadResponse(&h, method) != nil || h.Status < 200 {
			return
		}
		body, err := drain(r)
		if err != nil {
			return
		}
		if h.Framing == header.UntilClose {
			h.Framing = header.Open // as relay does
		}
		out := AppendResponse(nil, &h, method, false)
		if h.Framing == header.Open {
			if len(body) > 0 {
				out = AppendChunk(out, body)
			}
			out = AppendLastChunk(out, r.Trailers())
		} else {
			out = append(out, body...)
		}
		br := bufio.NewReader(bytes.NewReader(out))
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses what we relay: %v\n%q", err, out)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("body %q, want %q (%v)\n%q", got, body, err, out)
		}
		if resp.StatusCode != h.Status {
			t.Fatalf("status %d, want %d", resp.StatusCode, h.Status)
		}
		if rest, _ := io.ReadAll(br); len(rest) != 0 {
			t.Fatalf("%q is left behind the response\n%q", rest, out)
		}
	})
}

func drain(r *Reader) (body []byte, err error) {
	for {
		b, done, err := r.Next()
		body = append(body, b...)
		if err != nil || done {
			return body, err
		}
	}
}

// FuzzChunked: a chunked body that this codec accepts is one that net/http
// reads to the same bytes, however it arrives.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{
		"5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\n", "0\r\n\r\n",
		"5\nhello\r\n0\r\n\r\n", "ffffffffffffffff\r\n", "5\r\nhello0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s), byte(1))
		f.Add([]byte(s), byte(255))
	}
	const head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, in []byte, piece byte) {
		whole := append([]byte(head), in...)
		one := NewReader(bytes.NewReader(whole))
		var h header.Head
		if err := one.ReadRequest(&h); err != nil {
			t.Fatal(err)
		}
		body, err := drain(one)
		// In pieces the result is the same.
		pieces := NewReader(&trickle{whole, int(piece) + 1})
		if err := pieces.ReadRequest(&h); err != nil {
			t.Fatal(err)
		}
		again, errAgain := drain(pieces)
		if (err == nil) != (errAgain == nil) || err == nil && !bytes.Equal(body, again) {
			t.Fatalf("%q (%v) at once, %q (%v) in pieces of %d", body, err, again, errAgain, int(piece)+1)
		}
		var protocol *Error
		if err != nil && !errors.As(err, &protocol) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("an error of another kind: %v", err)
		}
		if err != nil {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(whole)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(req.Body)
		if err != nil {
			// net/http has limits of its own on trailers and extensions.
			if strings.Contains(err.Error(), "trailer") || strings.Contains(err.Error(), "malformed") || strings.Contains(err.Error(), "too") {
				return
			}
			t.Fatalf("net/http refuses a body that we accept: %v\n%q", err, in)
		}
		if !bytes.Equal(got, body) {
			t.Fatalf("body %q, net/http reads %q", body, got)
		}
	})
}

// trickle gives at most n bytes at a time.
type trickle struct {
	b []byte
	n int
}

func (t *trickle) Read(p []byte) (int, error) {
	if len(t.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.b[:min(t.n, len(t.b))])
	t.b = t.b[n:]
	return n, nil
}
