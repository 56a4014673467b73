package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// maxAnswer bounds the body of an HTTP authorizer's answer.
const maxAnswer = 1 << 20

// httpAuthorizer asks an HTTP authorizer over its cluster's connections, with
// the cluster's TLS, breaker and outlier detection. It implements
// authz.Provider.
type httpAuthorizer struct {
	p      *Proxy
	config *ir.ExtAuthz
}

// Check implements authz.Provider.
func (a *httpAuthorizer) Check(ctx context.Context, r *authz.External) authz.Verdict {
	v, err := a.check(ctx, r)
	if err != nil {
		return authz.Verdict{Err: fmt.Errorf("provider %s: %w", a.config.Provider, err)}
	}
	return v
}

func (a *httpAuthorizer) check(ctx context.Context, r *authz.External) (v authz.Verdict, err error) {
	if !r.HTTP {
		return v, errors.New("an HTTP authorizer cannot be asked about a connection")
	}
	rt := a.p.runtime.Load()
	if rt == nil || rt.clusters[a.config.Cluster] == nil {
		return v, fmt.Errorf("no cluster %s", a.config.Cluster)
	}
	c := rt.clusters[a.config.Cluster]
	if !c.BeginRequest() {
		return v, upstream.ErrOverflow
	}
	defer c.EndRequest()
	h := c.Pick(netip.AddrPort{}, nil, 0)
	if h == nil {
		return v, errors.New("no healthy endpoint")
	}
	h.Begin()
	defer h.End()
	deadline, _ := ctx.Deadline()
	up, err := c.Acquire(h, upstream.Want{Deadline: deadline, Check: true})
	if err != nil {
		c.Report(h, upstream.Outcome{Local: true})
		return v, err
	}
	status := 0
	v, status, err = a.exchange(up, rt, r, deadline)
	c.Report(h, upstream.Outcome{Status: status, Local: err != nil})
	if status == 0 || err != nil || !up.Complete() {
		up.Close()
		return v, err
	}
	up.Release(time.Now())
	return v, nil
}

// exchange sends the question and reads the answer; status 0: the connection
// is of no more use.
func (a *httpAuthorizer) exchange(up upstream.Carrier, rt *runtime, r *authz.External, deadline time.Time) (v authz.Verdict, status int, err error) {
	q := authz.NewHTTPCheck(a.config, r)
	head := header.Head{Method: q.Method, Host: q.Host, Path: q.Path, Scheme: "http", Framing: header.Length, Length: int64(len(q.Body)), HasLength: true, KeepAlive: true}
	for _, f := range q.Headers {
		head.Fields.Add(f.Name, f.Value)
	}
	if up.First() && up.Secure() {
		head.Fields.Add(peerHeader, rt.metadata)
	}
	up.SetWriteBy(deadline)
	if err = up.WriteHead(&head, len(q.Body) == 0); err == nil && len(q.Body) > 0 {
		err = up.WriteData(q.Body, true)
	}
	if err == nil {
		err = up.Flush()
	}
	if err != nil {
		return v, 0, err
	}
	up.SetReadBy(deadline, 0)
	var res header.Head
	for res.Status < 200 {
		if err = up.ReadHead(&res); err != nil {
			return v, 0, err
		}
	}
	headers := make([]ir.Header, 0, len(res.Fields.Fields))
	for _, f := range res.Fields.Fields {
		headers = append(headers, ir.Header{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)})
	}
	status, keep := res.Status, res.KeepAlive
	var body strings.Builder
	for !up.Complete() {
		b, _, err := up.Next()
		if err != nil {
			return v, 0, err
		}
		if body.Len()+len(b) > maxAnswer {
			return v, 0, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
		}
		body.Write(b)
	}
	v = authz.HTTPVerdict(a.config, status, headers, body.String())
	if !keep {
		status = 0
	}
	return v, status, nil
}
