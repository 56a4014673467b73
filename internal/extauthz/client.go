// Package extauthz asks an external authorizer that speaks Envoy's ext_authz
// v3 over gRPC, as OPA's Envoy plugin and many others do.
package extauthz

import (
	"context"
	"fmt"
	"net"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tulle-mesh/tulle/internal/authz"
)

// Options of a Client.
type Options struct {
	Name      string // of the provider
	Authority string // what the service is called in its own requests; "" is Name
	// Dial reaches the authorizer; encryption is its affair.
	Dial        func(context.Context) (net.Conn, error)
	PackAsBytes bool
}

// Client implements authz.Provider. Safe for concurrent use; one HTTP/2
// connection carries all checks and is made again when it breaks.
type Client struct {
	opts Options
	conn *grpc.ClientConn
	auth auth.AuthorizationClient
}

// New returns a client; it connects with the first check.
func New(o Options) (*Client, error) {
	authority := o.Authority
	if authority == "" {
		authority = o.Name
	}
	conn, err := grpc.NewClient("passthrough:///"+o.Name, grpc.WithAuthority(authority),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return o.Dial(ctx) }))
	if err != nil {
		return nil, err
	}
	return &Client{opts: o, conn: conn, auth: auth.NewAuthorizationClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Check implements authz.Provider.
func (c *Client) Check(ctx context.Context, r *authz.External) authz.Verdict {
	resp, err := c.auth.Check(ctx, c.request(r))
	if err != nil {
		return authz.Verdict{Err: fmt.Errorf("provider %s: %w", c.opts.Name, err)}
	}
	return verdict(resp)
}

// request fills in a CheckRequest as Envoy does. Strings are copied: gRPC may
// still be writing when the deadline has passed and the caller's buffer is
// used again.
func (c *Client) request(r *authz.External) *auth.CheckRequest {
	a := &auth.AttributeContext{
		Source:            &auth.AttributeContext_Peer{Address: socket(r.SourceAddress.Addr().String(), r.SourceAddress.Port()), Principal: strings.Clone(r.SourcePrincipal)},
		Destination:       &auth.AttributeContext_Peer{Address: socket(r.DestinationAddress.Addr().String(), r.DestinationAddress.Port()), Principal: strings.Clone(r.DestinationPrincipal)},
		ContextExtensions: r.ContextExtensions,
		TlsSession:        &auth.AttributeContext_TLSSession{Sni: strings.Clone(r.SNI)},
	}
	if r.HTTP {
		h := &auth.AttributeContext_HttpRequest{Id: strings.Clone(r.ID), Method: strings.Clone(r.Method), Path: strings.Clone(r.Path), Host: strings.Clone(r.Host),
			Scheme: strings.Clone(r.Scheme), Protocol: strings.Clone(r.Protocol), Size: -1, Headers: map[string]string{}}
		if r.Headers != nil {
			r.Headers(func(name, value string) bool {
				name = strings.Clone(name)
				if before, ok := h.Headers[name]; ok {
					value = before + "," + value
				}
				h.Headers[name] = strings.Clone(value)
				return true
			})
		}
		h.Headers[":authority"], h.Headers[":method"], h.Headers[":path"], h.Headers[":scheme"] = h.Host, h.Method, h.Path, h.Scheme
		if len(r.Body) > 0 {
			if c.opts.PackAsBytes {
				h.RawBody = append([]byte(nil), r.Body...)
			} else {
				h.Body = string(r.Body)
			}
			h.Size = int64(len(r.Body))
			h.Headers["x-envoy-auth-partial-body"] = fmt.Sprint(r.BodyTruncated)
		}
		a.Request = &auth.AttributeContext_Request{Time: timestamppb.New(r.Time), Http: h}
	}
	return &auth.CheckRequest{Attributes: a}
}

func socket(host string, port uint16) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: host, PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}
