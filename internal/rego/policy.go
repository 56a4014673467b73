// Package rego decides requests with Rego in this process: the evaluation that
// sidecars and the embedded OPA share. Input and decision documents are those
// of openpolicyagent/opa-envoy-plugin, so that a policy moves between the two
// unchanged.
package rego

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// DefaultPath is the decision that opa-envoy-plugin asks for.
const DefaultPath = "envoy/authz/allow"

// Query is a decision's path (envoy/authz/allow) as a reference.
func Query(path string) string {
	if path = strings.Trim(path, "/"); path == "" {
		path = DefaultPath
	}
	return "data." + strings.ReplaceAll(path, "/", ".")
}

// Policy is Rego compiled for one decision. Safe for concurrent use.
type Policy struct {
	spec     *ir.Rego
	compiler *ast.Compiler
	store    storage.Store
	decide   query
	needs    *need   // of the input
	tokens   *tokens // nil: verified each time
	memo     *memo   // nil: decided each time
	warnings []string
}

// query is a reference ready to be evaluated.
type query struct {
	body     ast.Body
	compiler ast.QueryCompiler
}

// answer is the variable that a query binds.
const answer = ast.Var("decision")

// Compile checks and compiles a policy. Errors name file, line and column.
func Compile(spec *ir.Rego) (*Policy, error) {
	modules := map[string]*ast.Module{}
	for name, text := range spec.Modules {
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, err
		}
		modules[name] = m
	}
	c := ast.NewCompiler()
	if c.Compile(modules); c.Failed() {
		return nil, c.Errors
	}
	data := map[string]any{}
	if spec.Data != "" {
		d := json.NewDecoder(strings.NewReader(spec.Data))
		d.UseNumber()
		if err := d.Decode(&data); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
	}
	p := &Policy{spec: spec, compiler: c, store: inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true))}
	var err error
	if p.decide, err = p.prepare(spec.Query); err != nil {
		return nil, err
	}
	asked, err := ast.ParseRef(spec.Query)
	if err != nil {
		return nil, err
	}
	p.needs = inputNeeds(c, asked)
	if cacheable(c) {
		p.tokens = newTokens()
		if deterministic(c) {
			p.memo = &memo{}
		}
	}
	if !hasDefault(c, spec.Query) {
		p.warnings = append(p.warnings, spec.Query+" has no default: requests that no rule decides have no decision (write: default "+spec.Query[strings.LastIndexByte(spec.Query, '.')+1:]+" := false)")
	}
	return p, nil
}

// prepare compiles the question for a reference such as data.envoy.authz.allow.
func (p *Policy) prepare(ref string) (query, error) {
	r, err := ast.ParseRef(ref)
	if err != nil {
		return query{}, fmt.Errorf("decision %q: %w", ref, err)
	}
	qc := p.compiler.QueryCompiler()
	body, err := qc.Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(r), ast.NewTerm(answer))))
	return query{body, qc}, err
}

// Warnings are what the policy's author may not have meant.
func (p *Policy) Warnings() []string { return p.warnings }

// Compiler and Store give OPA's REST API what it evaluates.
func (p *Policy) Compiler() *ast.Compiler { return p.compiler }

// Store holds the policy's data.
func (p *Policy) Store() storage.Store { return p.store }

// Modules are the policy's files by name.
func (p *Policy) Modules() map[string]string { return p.spec.Modules }

func hasDefault(c *ast.Compiler, query string) bool {
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			if r.Default && m.Package.Path.String()+"."+r.Head.Name.String() == query {
				return true
			}
		}
	}
	return false
}

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
	t := topdown.NewQuery(q.body).WithQueryCompiler(q.compiler).WithCompiler(p.compiler).WithStore(p.store).WithTransaction(txn).
		WithIndexing(true).WithEarlyExit(true).WithTime(now).WithCancel(limit).WithInput(ast.NewTerm(input))
	watch := &watched{tokens: p.tokens, now: now, until: now.Add(maxRemember)}
	if p.tokens != nil {
		t = t.WithInterQueryBuiltinValueCache(watch)
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
