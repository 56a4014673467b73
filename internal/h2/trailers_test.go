package h2

import (
	"testing"

	"golang.org/x/net/http2"
)

// What frames, routes or authorizes a message is no trailer: behind us is maybe
// HTTP/1.1, and a server that puts trailers among the headers.
func TestFieldsThatAreNoTrailers(t *testing.T) {
	r, _ := rawClient(t, Options{})
	for i, name := range []string{"content-length", "host", "authorization", "cookie", "expect", "trailer", "x-forwarded-for"} {
		id := uint32(2*i + 1)
		r.headers(id, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "mesh.test")
		r.headers(id, true, name, "7")
		code, err := r.reset(id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if code != http2.ErrCodeProtocol {
			t.Errorf("%s: %v", name, code)
		}
	}
}
