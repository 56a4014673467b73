package meshtest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// httpStatus is how scripts write a gRPC status, so that one script serves
// every protocol.
var httpStatus = map[codes.Code]int{
	codes.OK: 200, codes.InvalidArgument: 400, codes.Unauthenticated: 401, codes.PermissionDenied: 403, codes.Unimplemented: 404,
	codes.Internal: 500, codes.Unavailable: 503, codes.DeadlineExceeded: 504, codes.Unknown: unknownStatus,
}

// rawCodec passes messages as bytes: scripts need no protobuf. External
// authorization has its own messages.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		return proto.Marshal(m)
	}
	return *v.(*[]byte), nil
}

func (rawCodec) Unmarshal(b []byte, v any) error {
	if m, ok := v.(proto.Message); ok {
		return proto.Unmarshal(b, m)
	}
	*v.(*[]byte) = append([]byte(nil), b...)
	return nil
}

func (rawCodec) Name() string { return "raw" }

// grpcClients are one pod's connections, by host:port.
type grpcClients struct {
	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// conn is a connection in cleartext, or with TLS, where secure is not nil.
func (g *grpcClients) conn(c *client, address string, secure *tls.Config) (*grpc.ClientConn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key, creds := address, insecure.NewCredentials()
	if secure != nil {
		key, creds = fmt.Sprintf("%s with %d certificates", address, len(secure.Certificates)), credentials.NewTLS(secure)
	}
	if cc := g.conns[key]; cc != nil {
		return cc, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithAuthority(address),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return c.dial(ctx, "tcp", a) }),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)), grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	if g.conns == nil {
		g.conns = map[string]*grpc.ClientConn{}
	}
	g.conns[key] = cc
	return cc, nil
}

func (g *grpcClients) drop(broken *grpc.ClientConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, cc := range g.conns {
		if cc == broken {
			delete(g.conns, key)
		}
	}
	broken.Close()
}

func (g *grpcClients) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, cc := range g.conns {
		cc.Close()
	}
	g.conns = nil
}

// call makes a unary call of the request's path.
func (c *client) call(ctx context.Context, r *request, o *outcome) {
	u, err := url.Parse(r.url)
	if err != nil {
		o.err = err
		return
	}
	address := u.Host
	var secure *tls.Config
	if u.Scheme == "https" {
		t, err := c.transportFor(r)
		if err != nil {
			o.err = err
			return
		}
		secure = t.TLSClientConfig
	}
	if u.Port() == "" {
		address += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	}
	cc, err := c.grpc.conn(c, address, secure)
	if err != nil {
		o.err = err
		return
	}
	md := metadata.MD{}
	for name, values := range r.header {
		md.Append(strings.ToLower(name), values...)
	}
	md.Set(strings.ToLower(requestHeader), o.id)
	options := []grpc.CallOption{grpc.WaitForReady(false)}
	if host := md.Get("host"); host != nil {
		delete(md, "host")
		options = append(options, grpc.CallAuthority(host[0]))
	}
	var reply []byte
	var header, trailer metadata.MD
	err = cc.Invoke(metadata.NewOutgoingContext(ctx, md), u.RequestURI(), &r.body, &reply, append(options, grpc.Header(&header), grpc.Trailer(&trailer))...)
	o.header, o.trailer = httpHeader(header), httpHeader(trailer)
	if len(header) == 0 {
		o.header = o.trailer // an answer that is all trailers: for HTTP/2 they are its head
	}
	o.body = string(reply)
	s := status.Convert(err)
	if by, ok := ctx.Deadline(); ok && s.Code() == codes.DeadlineExceeded && !time.Now().Before(by) {
		o.err = context.DeadlineExceeded // the sidecar may have noticed at the same instant
		return
	}
	if broken := brokenConnection(s); broken != nil {
		o.err = broken
		c.grpc.drop(cc) // a new one does not wait for grpc-go's backoff
		return
	}
	if o.status = httpStatus[s.Code()]; o.status == 0 {
		o.err = fmt.Errorf("grpc status %v", s)
	}
	if err != nil {
		o.body = s.Message()
	}
}

// brokenConnection is what grpc-go made a status of: the connection failed, and
// nobody has answered.
func brokenConnection(s *status.Status) error {
	text := strings.TrimSuffix(s.Message(), `"`)
	switch {
	case s.Code() != codes.Unavailable || !strings.Contains(text, "connection error: ") && !strings.HasPrefix(text, "error reading from server: "):
		return nil
	case strings.Contains(text, syscall.ECONNRESET.Error()), strings.Contains(text, syscall.EPIPE.Error()):
		return fmt.Errorf("%s: %w", text, syscall.ECONNRESET)
	case strings.Contains(text, syscall.ECONNREFUSED.Error()):
		return fmt.Errorf("%s: %w", text, syscall.ECONNREFUSED)
	case strings.Contains(text, "EOF"):
		return fmt.Errorf("%s: %w", text, io.EOF)
	}
	return errors.New(text)
}

func httpHeader(md metadata.MD) http.Header {
	h := http.Header{}
	for name, values := range md {
		h[http.CanonicalHeaderKey(name)] = values
	}
	return h
}

// anyService stands before the path of a call on its way to grpc-go, which
// refuses paths that are no /SERVICE/METHOD: scripts may call any path.
const anyService = "/script"

// authorizerMethods are the calls that are not the script's.
const authorizerMethods = "/envoy.service.auth.v3.Authorization/"

// unknownStatus is how outcomes have UNKNOWN.
const unknownStatus = 520

// statusOver is the status that scripts mean over the protocol: over gRPC 429
// and 502 are UNAVAILABLE too, and what has no word of its own is UNKNOWN.
func (p protocol) statusOver(status int) int {
	switch {
	case p != overGRPC:
		return status
	case status == http.StatusBadGateway, status == http.StatusTooManyRequests:
		return http.StatusServiceUnavailable
	}
	for _, n := range httpStatus {
		if n == status {
			return status
		}
	}
	return unknownStatus
}

// codeOf is the gRPC status that is written as an HTTP one; ok is false where
// there is none.
func codeOf(status int) (code codes.Code, ok bool) {
	for code, n := range httpStatus {
		if n == overGRPC.statusOver(status) {
			return code, true
		}
	}
	return codes.OK, false
}

// newGRPCServer answers every method as the application behaves.
func newGRPCServer(a *app) *grpc.Server {
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		method = strings.TrimPrefix(method, anyService)
		if a.stream != nil {
			return a.stream(method, s)
		}
		b := a.behave()
		md, _ := metadata.FromIncomingContext(s.Context())
		h := httpHeader(md)
		var body []byte
		if err := s.RecvMsg(&body); err != nil {
			return err
		}
		// As a unary method does: who answers before the call's end is not tried again.
		if err := s.RecvMsg(new([]byte)); err != io.EOF {
			return status.Errorf(codes.Internal, "after the message: %v", err)
		}
		a.note(seen{id: h.Get(requestHeader), proto: "HTTP/2.0", method: http.MethodPost, path: method, host: h.Get(":authority"), header: h, body: int64(len(body)), at: time.Now()})
		// The application waits as long as its connection lives, not as long as
		// grpc-timeout allows: which of it and the sidecar ends a call at the same
		// instant of virtual time would be chance.
		call := s.Context().Value(callKey{}).(*callWriter)
		if !b.wait(call.conn) {
			return status.FromContextError(call.conn.Err()).Err()
		}
		switch b.action {
		case "reset", "close":
			call.ending.Store(&ending{abort: true})
			return nil
		case "breaks off":
			half := []byte("half of it")
			err := s.SendMsg(&half)
			call.ending.Store(&ending{abort: true})
			return err
		}
		out := metadata.Pairs(instanceHeader, a.name)
		for name, values := range b.header {
			out.Append(name, values...)
		}
		if err := s.SetHeader(out); err != nil {
			return err
		}
		if code, ok := codeOf(cmp.Or(b.status, http.StatusOK)); ok && code != codes.OK {
			failed := status.New(code, cmp.Or(b.body, "as the script says"))
			if b.action == "status at the end" {
				if err := s.SendMsg(&body); err != nil {
					return err
				}
				return failed.Err()
			}
			call.ending.Store(&ending{status: failed})
			return nil
		}
		if b.body != "" {
			body = []byte(b.body)
		} else if len(body) == 0 {
			body = fmt.Appendf(nil, "hello from %s\n", a.name)
		}
		return s.SendMsg(&body)
	}))
	auth.RegisterAuthorizationServer(s, &authorizer{app: a})
	return s
}
