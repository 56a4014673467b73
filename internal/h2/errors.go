package h2

import (
	"errors"
	"fmt"
)

// Code is an HTTP/2 error code (RFC 9113 section 7).
type Code uint32

const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

// String returns the standard's name of the code.
func (c Code) String() string {
	names := [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
		"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// StreamError ended one stream; the connection lives.
type StreamError struct {
	Code   Code
	Remote bool   // the peer reset the stream; else we did, because of Reason
	Reason string // ours only
}

func (e *StreamError) Error() string {
	if e.Remote {
		return "http2: the peer reset the stream: " + e.Code.String()
	}
	return "http2: stream reset: " + e.Code.String() + ": " + e.Reason
}

// ConnError ended the connection and every stream on it.
type ConnError struct {
	Code   Code
	Remote bool // the peer said so in GOAWAY
	Reason string
	Err    error // what the network reported, if it did
}

func (e *ConnError) Error() string {
	s := "http2: connection ended"
	if e.Remote {
		s = "http2: the peer ended the connection"
	}
	if e.Err == nil || e.Code != NoError {
		s += ": " + e.Code.String()
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the network's error.
func (e *ConnError) Unwrap() error { return e.Err }

var (
	// ErrNoStreams is returned by Open when the peer allows no further stream now.
	ErrNoStreams = errors.New("http2: the peer's limit of concurrent streams is reached")
	// ErrGoingAway is returned by Open when the connection takes no new streams.
	ErrGoingAway = errors.New("http2: the connection takes no new streams")
	// ErrUnprocessed ends a stream that the peer's GOAWAY did not accept.
	ErrUnprocessed = errors.New("http2: the peer left before it processed the stream")
	// ErrClosed is what streams and Serve return after Close.
	ErrClosed = errors.New("http2: connection closed")

	errStalled    = errors.New("timed out") // no os.ErrDeadlineExceeded: that is a stream's, and may be waited past
	errStreamDone = errors.New("http2: write after the end of the stream")
)

// RetrySafe reports whether the peer says that it did nothing with the
// request, so that it may be sent again whatever its method (RFC 9113 section 8.7).
func RetrySafe(err error) bool {
	var s *StreamError
	if errors.As(err, &s) {
		return s.Remote && s.Code == RefusedStream
	}
	return errors.Is(err, ErrUnprocessed) || errors.Is(err, ErrNoStreams) || errors.Is(err, ErrGoingAway)
}

func protocolError(reason string) *ConnError { return &ConnError{Code: ProtocolError, Reason: reason} }
