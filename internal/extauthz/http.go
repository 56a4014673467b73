package extauthz

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

const maxAnswer = 1 << 20

func askHTTP(ctx context.Context, f *ir.ExtAuthz, dial func(context.Context) (net.Conn, error), e *authz.External) authz.Verdict {
	v, err := exchangeHTTP(ctx, f, dial, e)
	if err != nil {
		return authz.Verdict{Err: fmt.Errorf("provider %s: %w", f.Provider, err)}
	}
	return v
}

func exchangeHTTP(ctx context.Context, f *ir.ExtAuthz, dial func(context.Context) (net.Conn, error), e *authz.External) (v authz.Verdict, err error) {
	q := authz.NewHTTPCheck(f, e)
	r, err := http.NewRequestWithContext(ctx, q.Method, "http://"+f.Authority, bytes.NewReader(q.Body))
	if err != nil {
		return v, err
	}
	r.Host, r.URL.Opaque = q.Host, q.Path
	for _, h := range q.Headers {
		r.Header.Add(h.Name, h.Value)
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	resp, err := t.RoundTrip(r)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return v, err
	}
	var headers []ir.Header
	for name, values := range resp.Header {
		for _, value := range values {
			headers = append(headers, ir.Header{Name: strings.ToLower(name), Value: value})
		}
	}
	return authz.HTTPVerdict(f, resp.StatusCode, headers, string(body)), nil
}
