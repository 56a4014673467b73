package h1

import (
	"net/http"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/header"
)

// AppendRequest appends a request's head: the line from Method, Path and Host,
// the fields, and what Framing, Trailers and Upgrade ask for.
func AppendRequest(b []byte, h *header.Head) []byte {
	b = append(b, h.Method...)
	b = append(b, ' ')
	b = append(b, h.Path...)
	b = append(b, " HTTP/1.1\r\nhost: "...)
	b = append(b, h.Host...)
	b = append(b, "\r\n"...)
	b = AppendFields(b, h.Fields.Fields)
	switch {
	case h.Framing == header.NoBody && (h.HasLength || h.Method == "POST" || h.Method == "PUT"):
		b = AppendFraming(b, header.Length, 0) // RFC 9110 section 8.6: these methods usually have a body
	default:
		b = AppendFraming(b, h.Framing, h.Length)
	}
	if h.Trailers {
		b = append(b, "te: trailers\r\n"...)
	}
	b = appendUpgrade(b, h.Upgrade)
	return AppendEnd(b)
}

// AppendResponse appends a response's head to a request with that method. A
// caller that speaks HTTP/1.0 (old) gets no chunks: the connection's end is
// the body's end, and the head must say KeepAlive false.
func AppendResponse(b []byte, h *header.Head, method string, old bool) []byte {
	b = AppendStatusLine(b, h.Status, h.Reason)
	b = AppendFields(b, h.Fields.Fields)
	bodyless := method == "HEAD" || h.Status < 200 || h.Status == 204 || h.Status == 304
	switch {
	case bodyless && h.HasLength && h.Status >= 200 && h.Status != 204:
		b = AppendFraming(b, header.Length, h.Length) // HEAD and 304 tell the length of what they do not send
	case bodyless:
	case h.Framing == header.NoBody:
		b = AppendFraming(b, header.Length, 0)
	case h.Framing == header.Open && old, h.Framing == header.UntilClose:
	default:
		b = AppendFraming(b, h.Framing, h.Length)
	}
	switch {
	case h.Upgrade != "":
		b = appendUpgrade(b, h.Upgrade)
	case h.Status < 200: // the final response says it
	case !h.KeepAlive:
		b = append(b, "connection: close\r\n"...)
	case old:
		b = append(b, "connection: keep-alive\r\n"...)
	}
	return AppendEnd(b)
}

func appendUpgrade(b []byte, protocol string) []byte {
	if protocol == "" {
		return b
	}
	b = append(b, "connection: upgrade\r\nupgrade: "...)
	b = append(b, protocol...)
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
