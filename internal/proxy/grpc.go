package proxy

import (
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// isGRPC reports whether a request is a gRPC call: application/grpc, with a
// "+codec" or parameters. gRPC-Web is not, its errors are HTTP's.
func isGRPC(h *header.Map) bool {
	ct := h.First("content-type")
	rest, ok := strings.CutPrefix(ct, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcFromHTTP is the status a gRPC caller reads from an HTTP error (gRPC's
// http-grpc-status-mapping, as Envoy applies it to its local answers).
func grpcFromHTTP(status int) int {
	switch status {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// httpFromGRPC is what outlier detection counts a gRPC status as (Envoy's
// mapping, after google.rpc.Code).
var httpFromGRPC = [17]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// answerGRPC answers a gRPC call with a status: a response that is all
// trailers, since callers look at nothing else.
func (x *exchange) answerGRPC(code int, message string) error {
	res := &x.res
	res.Reset()
	res.Status = 200
	res.Fields.Add("content-type", "application/grpc")
	res.Fields.Add("grpc-status", itoa(code))
	if message != "" {
		res.Fields.Add("grpc-message", escapeGRPC(message))
	}
	x.addExtra(&res.Fields)
	if x.route != nil && x.route.Forward == nil {
		x.apply(&res.Fields, &x.route.Response)
	}
	res.Fields.Add("server", x.serverName())
	if err := x.c.head(res, true); err != nil {
		return err
	}
	return x.c.flush()
}

// escapeGRPC percent-encodes a grpc-message (gRPC over HTTP/2, "Responses").
func escapeGRPC(s string) string {
	plain := func(c byte) bool { return ' ' <= c && c <= '~' && c != '%' }
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = plain(s[i])
	}
	if clean {
		return s
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); i++ {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// grpcStatus is the status in the given fields, -1 for none.
func grpcStatus(fields []header.Field) int {
	for i := range fields {
		if fields[i].Name == "grpc-status" {
			if n, err := strconv.Atoi(fields[i].Value); err == nil && n >= 0 {
				return n
			}
			return 2
		}
	}
	return -1
}

// settle tells outlier detection, the log and the metrics how a gRPC call
// ended, which only its trailers (or the head of a response without a body)
// say. ok: the response came whole.
func (x *exchange) settle(ok bool) {
	code := grpcStatus(x.res.Fields.Fields)
	if code < 0 && x.up != nil {
		code = grpcStatus(x.up.Trailers())
	}
	switch {
	case !ok && code < 0:
		x.report(upstream.Outcome{Local: true})
	case code >= 0 && code < len(httpFromGRPC):
		x.report(upstream.Outcome{Status: httpFromGRPC[code]})
	default:
		x.report(upstream.Outcome{Status: x.res.Status})
	}
	if code >= 0 {
		x.rec.GRPCStatus = itoa(code)
	}
}
