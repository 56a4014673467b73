package meshtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// protocol is what a script's requests speak.
type protocol string

const (
	overH1    protocol = "h1"
	overH2    protocol = "h2"    // the callers; applications get HTTP/1.1, as their ports say
	overHTTP2 protocol = "http2" // every hop
	overGRPC  protocol = "grpc"  // calls, over HTTP/2 on every hop
)

// client sends requests as one pod's application does (or as somebody outside
// of the mesh), with net/http.
type client struct {
	world     *world
	pod       *pod
	transport *http.Transport
	grpc      grpcClients

	mu        sync.Mutex // guards certified
	certified map[string]*http.Transport
}

func newClient(w *world, p *pod) *client {
	c := &client{world: w, pod: p}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.authority.Roots())
	roots.AppendCertsFromPEM(w.public.Roots())
	c.transport = &http.Transport{
		DialContext: c.dial, DisableCompression: true, MaxIdleConnsPerHost: 1000, Protocols: new(http.Protocols),
		TLSClientConfig: &tls.Config{RootCAs: roots}, ExpectContinueTimeout: time.Second,
	}
	switch w.protocol {
	case overH2, overHTTP2:
		c.transport.Protocols.SetUnencryptedHTTP2(true)
		c.transport.Protocols.SetHTTP2(true)
	default:
		c.transport.Protocols.SetHTTP1(true)
	}
	return c
}

func (c *client) close() {
	c.transport.CloseIdleConnections()
	for _, t := range c.certified {
		t.CloseIdleConnections()
	}
	c.grpc.close()
}

// dial resolves and connects. What nobody in the cluster is called is, from
// outside, a public name of the gateway.
func (c *client) dial(ctx context.Context, _, address string) (net.Conn, error) {
	name, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	port := uint16(n)
	addr, err := c.pod.answered(name), error(nil)
	if !addr.IsValid() {
		addr, err = c.world.resolve(name, c.pod.Namespace)
	}
	if gw := c.world.gateway(); err != nil && c.pod == c.world.outside && gw != nil {
		addr, port, err = gw.Address, gatewayPort(gw, port), nil
	}
	if err != nil {
		return nil, err
	}
	return c.pod.host.dial(ctx, netip.AddrPortFrom(addr, port))
}

// gatewayPort is the port of the process behind a public one, as the Service
// in front of Istio's gateway has it.
func gatewayPort(gw *pod, port uint16) uint16 {
	switch port {
	case 80:
		return 8080
	case 443:
		return 8443
	}
	return port
}

// request is one request of a script.
type request struct {
	method, url string
	header      http.Header
	body        []byte
	chunked     bool
	slow        bool
	timeout     time.Duration // the client's own; 0: none
	certificate string        // SPIFFE ID that the caller itself proves; "": none
}

// transportFor is the client's own, or one that shows a certificate of the
// public authority.
func (c *client) transportFor(r *request) (*http.Transport, error) {
	if r.certificate == "" {
		return c.transport, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.certified[r.certificate]; t != nil {
		return t, nil
	}
	id, err := identity.ParseID(r.certificate)
	if err != nil {
		return nil, err
	}
	cert, _, err := certificate(c.world.public, id)
	if err != nil {
		return nil, err
	}
	t := c.transport.Clone()
	t.TLSClientConfig.Certificates = []tls.Certificate{cert}
	if c.certified == nil {
		c.certified = map[string]*http.Transport{}
	}
	c.certified[r.certificate] = t
	return t, nil
}

// outcome is how a request went.
type outcome struct {
	id      string
	status  int
	header  http.Header
	trailer http.Header
	body    string
	err     error
	took    time.Duration
	started time.Time
}

// slowReader gives a piece each millisecond.
type slowReader struct{ r io.Reader }

func (s slowReader) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.r.Read(b[:min(len(b), 4<<10)])
}

func (c *client) do(r *request, id string) (o outcome) {
	o.id, o.started = id, time.Now()
	defer func() { o.took = time.Since(o.started) }()
	ctx := context.Background()
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	if c.world.protocol == overGRPC {
		c.call(ctx, r, &o)
		return o
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
		if r.slow {
			body = slowReader{body}
		} else if r.chunked {
			body = struct{ io.Reader }{body} // hides the length
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		o.err = err
		return o
	}
	for name, values := range r.header {
		if name == "Host" {
			req.Host = values[0]
			continue
		}
		req.Header[name] = values
	}
	req.Header.Set(requestHeader, id)
	transport, err := c.transportFor(r)
	if err != nil {
		o.err = err
		return o
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		o.err = err
		return o
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	o.status, o.header, o.trailer, o.body, o.err = resp.StatusCode, resp.Header, resp.Trailer, string(b), err
	return o
}

// failure names how a connection failed, as scripts do.
func failure(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.HasPrefix(err.Error(), "stream error: "), strings.HasSuffix(err.Error(), "client conn could not be established"):
		return "reset"
	case strings.Contains(err.Error(), "client conn could not be established"):
		return "reset" // what net/http makes of it while it sends HTTP/2's preface
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "server closed"):
		return "closed"
	}
	text := err.Error()
	if i := strings.Index(text, "remote error: tls: "); i >= 0 {
		return text[i:] // net/http puts before it where it noticed
	}
	return text
}

func (o *outcome) String() string {
	if o.err != nil {
		return fmt.Sprintf("failed after %v: %v", o.took, o.err)
	}
	return fmt.Sprintf("%d from %s after %v", o.status, o.instance(), o.took)
}

// instance that answered; "nobody" when the mesh did.
func (o *outcome) instance() string {
	if i := o.header.Get(instanceHeader); i != "" {
		return i
	}
	return "nobody"
}
