// Package h2 is an HTTP/2 connection (RFC 9113), the same type for both sides:
// a server's connections carry requests to its Handler, a client's streams are
// opened with Open.
//
// One goroutine, in Serve, reads. It hands the parts of a message to the
// stream they belong to and never waits for a consumer: what a consumer leaves
// unread keeps its flow-control window. Any goroutine writes: frames gather in
// one buffer under the connection's lock, and the first who flushes becomes
// the writer for all.
package h2

import "time"

// Options configure a connection. The zero value of a member means its default.
type Options struct {
	Server bool
	// Handler takes a server's new streams, called on the reading goroutine
	// when what was read at once has been parsed. It must not block; its
	// owner must Close the stream.
	Handler func(*Stream)
	// Buffered are bytes read from the connection already; a server's start
	// with the client's preface.
	Buffered []byte

	// MaxConcurrentStreams is how many streams the peer may have open; 1000.
	MaxConcurrentStreams uint32
	// StreamWindow is how much of a body may arrive unread; 256 KiB: 100 ms at
	// 20 Mbit/s or 1 ms at 2 Gbit/s, and what one stream can cost in memory.
	StreamWindow uint32
	// ConnWindow is the same for all streams of a server's connection
	// together; 4 MiB: sixteen stalled streams before the others feel it, and
	// before Choked tells the client. For a client it is how much may be under
	// way at once.
	ConnWindow uint32
	// MaxHeaderBytes bounds a decoded header list, counted as RFC 7541 section
	// 4.1 does; 60 KiB as in Envoy.
	MaxHeaderBytes int
	// MaxFields bounds the number of its fields; 100 as in Envoy.
	MaxFields int
	// ExtendedConnect lets clients send RFC 8441's CONNECT.
	ExtendedConnect bool

	// OnIdle is called when the last stream has been closed by its owner, OnActive when the
	// first opens: by whoever caused it, with no lock held. They can arrive
	// late; ActiveStreams tells the present.
	OnIdle, OnActive func()
	// OnGoAway is called when the peer has sent GOAWAY: no new streams.
	OnGoAway func()

	// PingInterval is how long nothing may arrive before a PING asks whether
	// the peer is there; 0 never asks. An answer later than PingTimeout (20 s)
	// ends the connection.
	PingInterval, PingTimeout time.Duration
	// WriteWait bounds each wait of WriteData for the peer to read or to open
	// its window, where the stream's SetWriteBy does not; 0: nothing does.
	WriteWait time.Duration
	// WriteTimeout is how long one write may take before the peer counts as
	// stuck and the connection ends; 30 s.
	WriteTimeout time.Duration
}

func (o *Options) defaults() {
	def(&o.MaxConcurrentStreams, 1000)
	def(&o.StreamWindow, 256<<10)
	def(&o.ConnWindow, 4<<20)
	def(&o.MaxHeaderBytes, 60<<10)
	def(&o.MaxFields, 100)
	def(&o.PingTimeout, 20*time.Second)
	def(&o.WriteTimeout, 30*time.Second)
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
