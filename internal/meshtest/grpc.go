package meshtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// httpStatus is how scripts write a gRPC status, so that one script serves
// every protocol.
var httpStatus = map[codes.Code]int{
	codes.OK: 200, codes.InvalidArgument: 400, codes.Unauthenticated: 401, codes.PermissionDenied: 403, codes.Unimplemented: 404,
	codes.Internal: 500, codes.Unavailable: 503, codes.DeadlineExceeded: 504,
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

func (g *grpcClients) conn(c *client, address string) (*grpc.ClientConn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if cc := g.conns[address]; cc != nil {
		return cc, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(address),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return c.dial(ctx, "tcp", a) }),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)), grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	if g.conns == nil {
		g.conns = map[string]*grpc.ClientConn{}
	}
	g.conns[address] = cc
	return cc, nil
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
	if u.Port() == "" {
		address += ":80"
	}
	cc, err := c.grpc.conn(c, address)
	if err != nil {
		o.err = err
		return
	}
	md := metadata.MD{}
	for name, values := range r.header {
		md.Append(strings.ToLower(name), values...)
	}
	md.Set(strings.ToLower(requestHeader), o.id)
	var reply []byte
	var header, trailer metadata.MD
	err = cc.Invoke(metadata.NewOutgoingContext(ctx, md), u.RequestURI(), &r.body, &reply, grpc.Header(&header), grpc.Trailer(&trailer), grpc.WaitForReady(false))
	o.header, o.trailer = httpHeader(header), httpHeader(trailer)
	o.body = string(reply)
	s := status.Convert(err)
	if s.Code() == codes.DeadlineExceeded && ctx.Err() != nil {
		o.err = ctx.Err()
		return
	}
	if o.status = httpStatus[s.Code()]; o.status == 0 {
		o.err = fmt.Errorf("grpc status %v", s)
	}
	if err != nil {
		o.body = s.Message()
	}
}

func httpHeader(md metadata.MD) http.Header {
	h := http.Header{}
	for name, values := range md {
		h[http.CanonicalHeaderKey(name)] = values
	}
	return h
}

// newGRPCServer answers every method as the application behaves.
func newGRPCServer(a *app) *grpc.Server {
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
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
		a.note(seen{id: h.Get(requestHeader), proto: "HTTP/2.0", method: http.MethodPost, path: method, host: h.Get(":authority"), header: h, body: int64(len(body)), at: time.Now()})
		if !b.wait(s.Context()) {
			return status.FromContextError(s.Context().Err()).Err()
		}
		if b.action == "reset" || b.action == "close" {
			panic(http.ErrAbortHandler)
		}
		out := metadata.Pairs(instanceHeader, a.name)
		for name, values := range b.header {
			out.Append(name, values...)
		}
		if err := s.SetHeader(out); err != nil {
			return err
		}
		for code, n := range httpStatus {
			if n == b.status && code != codes.OK {
				return status.Error(code, "as the script says")
			}
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
