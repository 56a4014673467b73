package h1

import (
	"io"

	"github.com/tulle-mesh/tulle/internal/header"
)

// flushAt is how much of a body is gathered before it is written.
const flushAt = 32 << 10

// Writer writes messages to a connection, one after the other. What it is
// given gathers until Flush, or until it is enough for a write, so that a small
// message is one write. Not safe for concurrent use.
type Writer struct {
	dst     io.Writer
	buf     []byte
	framing header.Framing // of the message being written
}

// NewWriter returns a writer to dst.
func NewWriter(dst io.Writer) Writer { return Writer{dst: dst} }

// Continue begins with the interim response 100.
func (w *Writer) Continue() { w.buf = append(w.buf[:0], "HTTP/1.1 100 Continue\r\n\r\n"...) }

// Request begins a request. end: no body follows.
func (w *Writer) Request(h *header.Head, end bool) {
	w.framing = h.Framing
	w.buf = AppendRequest(w.buf[:0], h)
	w.ended(end)
}

// Response begins the response to a request with that method. end: no body
// follows; old: see AppendResponse.
func (w *Writer) Response(h *header.Head, method string, old, end bool) {
	w.framing = h.Framing
	w.buf = AppendResponse(w.buf[:0], h, method, old)
	if old && w.framing == header.Open {
		w.framing = header.UntilClose
	}
	w.ended(end)
}

// Data appends part of the body; end: it was the last, and no trailers follow.
// What HTTP/2 hands over at once can be a whole window: cut into pieces it does
// not swell the buffer, which stays with the connection.
func (w *Writer) Data(b []byte, end bool) error {
	for ; len(b) > flushAt; b = b[flushAt:] {
		if err := w.piece(b[:flushAt], false); err != nil {
			return err
		}
	}
	return w.piece(b, end)
}

func (w *Writer) piece(b []byte, end bool) error {
	if w.framing == header.Open {
		w.buf = AppendChunk(w.buf, b)
		w.ended(end)
	} else {
		w.buf = append(w.buf, b...)
	}
	if len(w.buf) >= flushAt {
		return w.Flush()
	}
	return nil
}

// Trailers ends the body. They need chunks to travel and are dropped otherwise.
func (w *Writer) Trailers(fields []header.Field) {
	if w.framing == header.Open {
		w.buf = AppendLastChunk(w.buf, fields)
	}
}

func (w *Writer) ended(end bool) {
	if end {
		w.Trailers(nil)
	}
}

// Flush writes what has gathered.
func (w *Writer) Flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.dst.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}
