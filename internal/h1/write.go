package h1

import (
	"net/http"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/header"
)

// AppendRequestLine starts a request: the line and the Host field.
func AppendRequestLine(b []byte, method, target, host string) []byte {
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nhost: "...)
	b = append(b, host...)
	return append(b, "\r\n"...)
}

// AppendStatusLine starts a response.
func AppendStatusLine(b []byte, status int, reason string) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	if reason == "" {
		reason = http.StatusText(status)
	}
	b = append(b, reason...)
	return append(b, "\r\n"...)
}

// AppendFields appends field lines.
func AppendFields(b []byte, fields []header.Field) []byte {
	for i := range fields {
		b = AppendField(b, fields[i].Name, fields[i].Value)
	}
	return b
}

// AppendField appends one field line.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// AppendFraming appends the fields that say how the body ends, for a body
// framed as f with that length. header.Open and header.Length exclude each other.
func AppendFraming(b []byte, f header.Framing, length int64) []byte {
	switch f {
	case header.Length:
		b = append(b, "content-length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	case header.Open:
		b = append(b, "transfer-encoding: chunked\r\n"...)
	}
	return b
}

// AppendEnd ends the head.
func AppendEnd(b []byte) []byte { return append(b, "\r\n"...) }

// AppendChunk frames data as one chunk. Empty data appends nothing: a chunk of
// size 0 would end the body.
func AppendChunk(b, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	b = strconv.AppendInt(b, int64(len(data)), 16)
	b = append(b, "\r\n"...)
	b = append(b, data...)
	return append(b, "\r\n"...)
}

// AppendLastChunk ends a chunked body.
func AppendLastChunk(b []byte, trailers []header.Field) []byte {
	b = append(b, "0\r\n"...)
	b = AppendFields(b, trailers)
	return append(b, "\r\n"...)
}
