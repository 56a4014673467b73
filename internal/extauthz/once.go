package extauthz

import (
	"context"
	"net"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// AskOnce puts one question to the authorizer of f, whatever it speaks, over a
// connection of its own. It is for explain; proxies keep their connections.
func AskOnce(ctx context.Context, f *ir.ExtAuthz, dial func(context.Context) (net.Conn, error), e *authz.External) authz.Verdict {
	if f.HTTP != nil {
		return askHTTP(ctx, f, dial, e)
	}
	c, err := New(Options{Name: f.Provider, Authority: f.Authority, PackAsBytes: f.PackAsBytes, Dial: dial})
	if err != nil {
		return authz.Verdict{Err: err}
	}
	defer c.Close()
	return c.Check(ctx, e)
}
