package h1

import (
	"bytes"
	"errors"

	"github.com/tulle-mesh/tulle/internal/header"
)

// nextChunk returns data of the current chunk, or opens the next one
// (RFC 9112 section 7.1). Chunk extensions are dropped: we frame anew. Who was
// interrupted may ask again; what is no chunk stays an error.
func (r *Reader) nextChunk() ([]byte, bool, error) {
	if r.invalid != nil {
		return nil, false, r.invalid
	}
	b, done, err := r.chunk()
	if errors.As(err, &r.invalid) {
		return nil, false, r.invalid
	}
	return b, done, err
}

func (r *Reader) chunk() ([]byte, bool, error) {
	for r.remaining == 0 {
		if r.inTrailer {
			if err := r.readTrailers(); err != nil {
				return nil, false, err
			}
			r.done = true
			return nil, true, nil
		}
		if r.inChunk {
			line, err := r.line(2)
			if err != nil {
				return nil, false, err
			}
			if len(line) != 0 {
				return nil, false, bad("http1.invalid_chunk_end")
			}
			r.inChunk = false
		}
		line, err := r.line(maxChunkLine)
		if err != nil {
			return nil, false, err
		}
		size, err := parseChunkSize(line)
		if err != nil {
			return nil, false, err
		}
		r.inTrailer = size == 0
		r.remaining, r.inChunk = size, size > 0
	}
	if r.r == r.w {
		if err := r.fill(); err != nil {
			return nil, false, unexpected(err)
		}
	}
	b := r.consume(r.remaining)
	r.remaining -= int64(len(b))
	return b, false, nil
}

// chunkReady reports whether the buffer holds everything up to the next byte
// of data or the end of the body, or something that Next will refuse.
func (r *Reader) chunkReady() bool {
	b := r.buf[r.r:r.w]
	if r.invalid != nil {
		return true
	}
	if r.inTrailer {
		return trailerEnds(b)
	}
	if r.inChunk {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return false
		}
		b = b[i+1:]
	}
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return false
	}
	size, err := parseChunkSize(bytes.TrimSuffix(b[:i], []byte{'\r'}))
	rest := b[i+1:]
	if err != nil || size > 0 {
		return err != nil || len(rest) > 0
	}
	return trailerEnds(rest)
}

func trailerEnds(b []byte) bool {
	return bytes.HasPrefix(b, []byte("\r\n")) || bytes.Contains(b, []byte("\r\n\r\n"))
}

// line consumes one CRLF-terminated line of at most limit bytes.
func (r *Reader) line(limit int) ([]byte, error) {
	scanned := 0
	for {
		have := r.buf[r.r:r.w]
		if i := bytes.IndexByte(have[scanned:], '\n'); i >= 0 {
			i += scanned
			if i > limit {
				return nil, bad("http1.chunk_line_too_long")
			}
			if i < 1 || have[i-1] != '\r' || bytes.IndexByte(have[:i-1], '\r') >= 0 {
				return nil, bad("http1.invalid_chunk_line")
			}
			r.r += i + 1
			return have[:i-1], nil
		}
		scanned = len(have)
		if scanned > limit {
			return nil, bad("http1.chunk_line_too_long")
		}
		if err := r.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}

func parseChunkSize(line []byte) (int64, error) {
	var n int64
	i := 0
	for ; i < len(line); i++ {
		c := lower[line[i]]
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | int64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | int64(c-'a'+10)
		case c == ';':
			if i == 0 || !all(line[i:], isValue) {
				return 0, bad("http1.invalid_chunk_size")
			}
			return n, nil
		default:
			return 0, bad("http1.invalid_chunk_size")
		}
		if i >= 15 {
			return 0, bad("http1.invalid_chunk_size")
		}
	}
	if i == 0 {
		return 0, bad("http1.invalid_chunk_size")
	}
	return n, nil
}

// readTrailers parses the trailer section. Fields that frame or route a
// message are not allowed there (RFC 9110 section 6.5.1).
func (r *Reader) readTrailers() error {
	total := 0
	for {
		line, err := r.line(maxTrailer)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		if total += len(line); total > maxTrailer || len(r.trailer.Fields.Fields) >= MaxFields {
			return &Error{431, "http1.trailers_too_large"}
		}
		name, value, err := cutField(line)
		if err != nil {
			return err
		}
		if !header.MayTrail(name) {
			return bad("http1.invalid_trailer")
		}
		// The line may be overwritten by the next fill: copy.
		r.trailer.Fields.Add(string([]byte(name)), string([]byte(value)))
	}
}
