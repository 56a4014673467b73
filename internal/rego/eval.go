package rego

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ErrUndefined: no rule gave a decision.
var ErrUndefined = errors.New("the decision is undefined")

// ErrTimeout: the deadline passed first.
var ErrTimeout = errors.New("the decision took too long")

// eval asks; deadline bounds it, and ctx what builtins such as http.send do.
func (p *Policy) eval(ctx context.Context, q query, input ast.Value, now, deadline time.Time) (ast.Value, error) {
	v, _, err := p.evalUntil(ctx, q, input, now, deadline)
	return v, err
}

// evalUntil also tells until when the tokens it looked at let the answer be
// what it is.
func (p *Policy) evalUntil(ctx context.Context, q query, input ast.Value, now, deadline time.Time) (result ast.Value, until time.Time, err error) {
	defer func() {
		if r := recover(); r != nil { // a builtin must not take the process down
			err = fmt.Errorf("evaluation panicked: %v", r)
		}
	}()
	txn, err := p.store.NewTransaction(ctx)
	if err != nil {
		return nil, until, err
	}
	defer p.store.Abort(ctx, txn)
	limit := &limit{at: deadline}
	watch := &watched{tokens: p.tokens, now: now, until: now.Add(maxRemember)}
	t := topdown.NewQuery(q.body).WithQueryCompiler(q.compiler).WithCompiler(p.compiler).WithStore(p.store).WithTransaction(txn).
		WithIndexing(true).WithEarlyExit(true).WithTime(now).WithCancel(limit).WithInput(ast.NewTerm(input)).WithMetrics(metrics.NoOp())
	if p.tokens != nil {
		t = t.WithInterQueryBuiltinValueCache(watch)
	}
	if len(p.tokenRules) > 0 {
		t = t.WithVirtualCache(&recall{topdown.NewVirtualCache(), p, input, watch})
	}
	results := 0
	err = t.Iter(ctx, func(r topdown.QueryResult) error {
		results++
		result = r[answer].Value
		return nil
	})
	switch {
	case limit.passed || errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, until, ErrTimeout
	case err != nil:
		return nil, until, err
	case results == 0:
		return nil, until, ErrUndefined
	case results > 1:
		return nil, until, errors.New("the decision has several values")
	}
	return result, watch.until, nil
}

// limit is a deadline that evaluation looks at: no timer, no goroutine.
type limit struct {
	at     time.Time // zero: none
	looks  int
	passed bool
}

// looksBetween: evaluation asks several times in a microsecond.
const looksBetween = 64

// Cancel implements topdown.Cancel.
func (l *limit) Cancel() { l.passed = true }

// Cancelled implements topdown.Cancel.
func (l *limit) Cancelled() bool {
	if l.looks++; l.looks%looksBetween == 0 && !l.at.IsZero() && time.Now().After(l.at) {
		l.passed = true
	}
	return l.passed
}
