package meshtest

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"

	"google.golang.org/grpc/status"
)

// callWriter is where grpc-go, served by net/http, writes its response. It
// makes of it what a script wants and grpc-go has no way to say: a reset
// stream, or a response that is nothing but the status, as grpc-go's own
// server gives it.
type callWriter struct {
	http.ResponseWriter
	conn   context.Context // of the HTTP/2 stream: no deadline of the call's in it
	ending atomic.Pointer[ending]
}

// ending of a call other than grpc-go's.
type ending struct {
	abort  bool
	status *status.Status
}

// callKey has a call's callWriter in its context.
type callKey struct{}

// Flush implements http.Flusher; grpc-go's first one sends the head.
func (w *callWriter) Flush() {
	switch e := w.ending.Load(); {
	case e == nil:
		w.ResponseWriter.(http.Flusher).Flush()
	case e.abort:
		panic(http.ErrAbortHandler)
	default:
		h := w.Header()
		h.Del("Trailer") // what is not announced is not sent
		h.Set("Grpc-Status", strconv.Itoa(int(e.status.Code())))
		h.Set("Grpc-Message", e.status.Message())
		w.WriteHeader(http.StatusOK)
	}
}
