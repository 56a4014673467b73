package h1

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/tulle-mesh/tulle/internal/header"
)

// bufferSize holds a usual head with some body behind it.
const bufferSize = 8 << 10

// minRead is how much room there must be for it to be worth a read.
const minRead = 512

// Reader reads messages from one connection. Not safe for concurrent use,
// except that while one goroutine is in Next nobody may call anything else.
//
// Layout of buf: [0,head) the current message's head, kept because its strings
// point there; [r,w) bytes read and not yet consumed.
type Reader struct {
	src  io.Reader
	buf  []byte
	head int
	r, w int

	framing   header.Framing
	remaining int64 // of the body (header.Length) or of the chunk (header.Open)
	inChunk   bool  // the CRLF after a chunk's data is still to come
	inTrailer bool  // the last chunk's line is consumed
	invalid   *Error
	done      bool
	// OnPartial, if set, is called once per request head that did not arrive
	// in one read, before waiting for the rest: the place to shorten a deadline.
	OnPartial func()
	trailer   header.Head // parsed trailer section, in trailer.Fields
}

// Release gives the buffer back while the connection stands idle; strings of
// the last head are invalid from here on. Nothing may be buffered.
func (r *Reader) Release() {
	if r.r < r.w || len(r.buf) != bufferSize {
		if r.r == r.w {
			r.buf, r.head, r.r, r.w = nil, 0, 0, 0 // one that has grown is not worth keeping
		}
		return
	}
	buffers.Put((*[bufferSize]byte)(r.buf))
	r.buf, r.head, r.r, r.w = nil, 0, 0, 0
}

// buffers of connections that stand idle.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// NewReader returns a reader of src.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Reset makes the reader read another connection; its buffer is kept.
func (r *Reader) Reset(src io.Reader) {
	*r = Reader{src: src, buf: r.buf, OnPartial: r.OnPartial}
}

// Buffered is the number of bytes read from the connection and not consumed.
func (r *Reader) Buffered() int { return r.w - r.r }

// Take returns what is buffered, for a connection that stops being HTTP.
func (r *Reader) Take() []byte {
	b := append([]byte(nil), r.buf[r.r:r.w]...)
	r.r = r.w
	return b
}

// HasPrefix reports whether the connection begins with p, reading no further
// than it takes to tell. The bytes stay buffered. On an error they are no p.
func (r *Reader) HasPrefix(p string) (bool, error) {
	for {
		n := min(r.w-r.r, len(p))
		if n > 0 && string(r.buf[r.r:r.r+n]) != p[:n] {
			return false, nil
		}
		if n == len(p) {
			return true, nil
		}
		if err := r.fill(); err != nil {
			return false, err
		}
	}
}

// ReadRequest reads one request head. io.EOF: the peer closed between
// requests. *Error: what the peer sent is not HTTP/1.1 as this codec accepts it.
func (r *Reader) ReadRequest(h *header.Head) error {
	b, err := r.readHead(true)
	if err != nil {
		return err
	}
	if err := parseRequest(b, h); err != nil {
		return err
	}
	r.begin(h)
	return nil
}

// ReadResponse reads one response head; method is the request's. Interim
// responses (1xx) come out like any other.
func (r *Reader) ReadResponse(h *header.Head, method string) error {
	b, err := r.readHead(false)
	if err != nil {
		return err
	}
	if err := parseResponse(b, h, method); err != nil {
		return err
	}
	r.begin(h)
	return nil
}

func (r *Reader) begin(h *header.Head) {
	r.framing, r.remaining, r.inChunk, r.inTrailer, r.invalid = h.Framing, h.Length, false, false, nil
	r.done = h.Framing == header.NoBody || h.Framing == header.Length && h.Length == 0
	r.trailer.Fields.Reset()
}

var endOfHead = []byte("\r\n\r\n")

// readHead returns the bytes of one head, the empty line included.
func (r *Reader) readHead(request bool) ([]byte, error) {
	r.head = 0
	if r.r > 0 { // what came behind the previous message
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	scanned, partial := 0, false
	for {
		if request && r.w >= 2 && r.buf[0] == '\r' && r.buf[1] == '\n' {
			// RFC 9112 section 2.2: one empty line before a request is let pass.
			r.w = copy(r.buf, r.buf[2:r.w])
			request, scanned = false, 0
		}
		from := max(0, scanned-3)
		if i := bytes.Index(r.buf[from:r.w], endOfHead); i >= 0 {
			end := from + i + len(endOfHead)
			if end > MaxHead {
				return nil, &Error{431, "http1.headers_too_large"}
			}
			r.head, r.r = end, end
			return r.buf[:end], nil
		}
		if err := checkPartial(r.buf[:r.w], scanned); err != nil {
			return nil, err
		}
		scanned = r.w
		if scanned > MaxHead {
			return nil, &Error{431, "http1.headers_too_large"}
		}
		if r.w > 0 && !partial && r.OnPartial != nil {
			partial = true
			r.OnPartial()
		}
		if err := r.fill(); err != nil {
			if errors.Is(err, io.EOF) && r.w > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// checkPartial refuses a bare LF at once: a peer that ends lines that way
// would otherwise wait for an answer until the timeout. What lies before from
// has been looked at.
func checkPartial(b []byte, from int) error {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return nil
		}
		if i += from; i == 0 || b[i-1] != '\r' {
			return bad("http1.bare_lf")
		}
		from = i + 1
	}
}

// fill reads once, making room first. It never moves [0,head).
func (r *Reader) fill() error {
	if r.r == r.w {
		r.r, r.w = r.head, r.head
	}
	if r.buf == nil {
		r.buf = buffers.Get().(*[bufferSize]byte)[:]
	}
	if len(r.buf)-r.w < minRead && r.head == 0 { // in the body, and the head lies in an older array
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if len(r.buf)-r.w < minRead {
		r.grow()
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// grow moves unread bytes to a fresh array; the old one lives as long as the
// head's strings need it.
func (r *Reader) grow() {
	size := bufferSize
	if r.head == 0 { // a head larger than the buffer
		size = 2 * len(r.buf)
	}
	fresh := make([]byte, max(size, 2*(r.w-r.r)))
	r.w = copy(fresh, r.buf[r.r:r.w])
	r.r, r.head, r.buf = 0, 0, fresh
}

// Next returns the next bytes of the body, valid until the following call,
// and done with or after the last of them. It blocks only when nothing is
// buffered.
func (r *Reader) Next() (b []byte, done bool, err error) {
	if r.done {
		return nil, true, nil
	}
	switch r.framing {
	case header.Length:
		if r.r == r.w {
			if err := r.fill(); err != nil {
				return nil, false, unexpected(err)
			}
		}
		b = r.consume(r.remaining)
		r.remaining -= int64(len(b))
		r.done = r.remaining == 0
		return b, r.done, nil
	case header.Open:
		return r.nextChunk()
	default:
		if r.r == r.w {
			if err := r.fill(); err != nil {
				if errors.Is(err, io.EOF) {
					r.done = true
					return nil, true, nil
				}
				return nil, false, err
			}
		}
		return r.consume(int64(r.w - r.r)), false, nil
	}
}

// Complete reports whether the whole body has been consumed.
func (r *Reader) Complete() bool { return r.done }

// ReadyNow reports whether Next would return without reading. A caller that
// forwards a stream sends what it has before it asks for more otherwise.
func (r *Reader) ReadyNow() bool {
	if r.framing == header.Open && r.remaining == 0 && !r.done {
		return r.chunkReady()
	}
	return r.done || r.r < r.w
}

// AllBuffered reports whether the rest of the body is in the buffer already
// (known for bodies with a length only).
func (r *Reader) AllBuffered() bool {
	return r.done || r.framing == header.Length && r.remaining <= int64(r.w-r.r)
}

// Trailers returns the trailer fields of a chunked body that is complete.
func (r *Reader) Trailers() []header.Field { return r.trailer.Fields.Fields }

func (r *Reader) consume(n int64) []byte {
	if m := int64(r.w - r.r); n > m {
		n = m
	}
	b := r.buf[r.r : r.r+int(n)]
	r.r += int(n)
	return b
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
