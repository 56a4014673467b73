package h1

import (
	"io"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/header"
)

// endless gives its text again and again, in pieces of uneven length, so that
// chunk sizes are cut in every place.
type endless struct {
	text string
	at   int
	step int
	left int
}

func (t *endless) Read(b []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	t.step = t.step%997 + 1
	n := copy(b[:min(len(b), t.step*7)], t.text[t.at:])
	n = min(n, t.left)
	t.at, t.left = (t.at+n)%len(t.text), t.left-n
	return n, nil
}

// However long a body is, the buffer that it passes through stays small.
func TestLongBodyNeedsNoLongBuffer(t *testing.T) {
	chunk := "1ff3;name=value\r\n" + strings.Repeat("x", 0x1ff3) + "\r\n"
	for _, tt := range []struct{ name, head, body string }{
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk},
		{"small chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n"},
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", strings.Repeat("y", 4001)},
		{"until close", "HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("z", 4001)},
	} {
		r := NewReader(io.MultiReader(strings.NewReader(tt.head), &endless{text: strings.Repeat(tt.body, 1+1<<20/len(tt.body)), left: 16 << 20}))
		var res header.Head
		if err := r.ReadResponse(&res, "GET"); err != nil {
			t.Fatal(tt.name, err)
		}
		got, most := 0, 0
		for {
			b, done, err := r.Next()
			got, most = got+len(b), max(most, cap(r.buf))
			if done || err != nil {
				break
			}
		}
		if got < 8<<20 {
			t.Errorf("%s: only %d bytes passed", tt.name, got)
		}
		if most > 4*bufferSize {
			t.Errorf("%s: a buffer of %d bytes for a body of %d", tt.name, most, got)
		}
	}
}
