package meshtest

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"

	"golang.org/x/net/http2"
)

// extendedConnect opens WebSockets over HTTP/2 for a library that knows them
// over HTTP/1.1 only: its handshake becomes an extended CONNECT (RFC 8441), and
// the answer what HTTP/1.1 would have said. The HTTP/2 is golang.org/x/net's,
// because net/http's own client refuses the :protocol field.
//
//lint:ignore SA1019 net/http makes no extended CONNECT
type extendedConnect struct{ transport *http2.Transport }

func newExtendedConnect(c *client) *extendedConnect {
	dial := func(ctx context.Context, network, address string, conf *tls.Config) (net.Conn, error) {
		return c.dial(ctx, network, address)
	}
	//lint:ignore SA1019 net/http makes no extended CONNECT
	return &extendedConnect{&http2.Transport{AllowHTTP: true, DialTLSContext: dial, DisableCompression: true}}
}

// RoundTrip implements http.RoundTripper.
func (e *extendedConnect) RoundTrip(handshake *http.Request) (*http.Response, error) {
	in, out := io.Pipe()
	req := handshake.Clone(context.WithoutCancel(handshake.Context())) // which ends with the handshake, unlike the stream
	req.Method, req.Body = http.MethodConnect, in
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Key"} {
		req.Header.Del(name)
	}
	req.Header[":protocol"] = []string{"websocket"}
	//lint:ignore SA1019 net/http makes no extended CONNECT
	resp, err := e.transport.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		out.Close()
		return resp, err
	}
	resp.StatusCode = http.StatusSwitchingProtocols
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	sum := sha1.Sum([]byte(handshake.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 section 4.2.2
	resp.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	resp.Body = &stream{resp.Body, out}
	return resp, nil
}

// stream is both directions of an HTTP/2 stream.
type stream struct {
	io.ReadCloser
	out *io.PipeWriter
}

// Write implements io.Writer.
func (s *stream) Write(b []byte) (int, error) { return s.out.Write(b) }

// Close ends both directions.
func (s *stream) Close() error {
	s.out.Close()
	return s.ReadCloser.Close()
}
