package proxy

import (
	"net"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// source is a body as a codec hands it out: *h1.Reader, *h2.Stream and every
// upstream.Carrier.
type source interface {
	Next() (b []byte, done bool, err error) // b is valid until the following call
	Complete() bool
	ReadyNow() bool    // Next would not wait
	AllBuffered() bool // the rest of the body is here
	Trailers() []header.Field
}

// caller is the side that sent a request: what is still to come of it, and the
// way back. HTTP/1.1 and HTTP/2 implement it; the exchange does not know which
// one it serves.
//
// head, data and end build the response and may write what has gathered; flush
// sends the rest.
type caller interface {
	source
	// readBy bounds the next wait for the body. A deadline that is armed
	// already, less than slack before t, stays.
	readBy(t time.Time, slack time.Duration)
	// proceed answers "Expect: 100-continue".
	proceed() error

	head(h *header.Head, end bool) error // end: no body follows
	data(b []byte, end bool) error       // end: the body is through, without trailers
	end(trailers []header.Field) error
	flush() error
	// cut breaks off what cannot be completed, so that the caller sees it.
	cut()

	// gone reports whether the caller has left, without waiting; leaving is
	// what it is known to have said already, without a system call.
	gone() bool
	leaving() bool
	// watch names the carrier whose wait ends if the caller leaves or is sent
	// away; nil: none.
	watch(up upstream.Carrier)
	// wake makes a Next that waits in another goroutine return; rearm undoes it.
	wake()
	rearm()
	// drains reports whether the connection ends after this exchange.
	drains() bool
	// hijack returns the two-way stream that an accepted upgrade opens.
	hijack() net.Conn
	protocol() string // as the access log prints it
}
