// Package rego decides requests with Rego in this process: the evaluation that
// sidecars and the embedded OPA share. Input and decision documents are those
// of openpolicyagent/opa-envoy-plugin, so that a policy moves between the two
// unchanged.
package rego

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

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

	tokenRules []*tokenRule // remembered where memo is not nil
	known      memo         // of their values
}

// query is a reference ready to be evaluated.
type query struct {
	body     ast.Body
	compiler ast.QueryCompiler
}

// answer is the variable that a query binds.
const answer = ast.Var("decision")

// Compile checks and compiles a policy. Errors name file, line and column.
func Compile(spec *ir.Rego) (*Policy, error) { return compile(spec, partial) }

// compile evaluates with what rewrite makes of the policy; what the policy
// needs, and may remember, is told by its own text.
func compile(spec *ir.Rego, rewrite func(*ast.Compiler, storage.Store) *ast.Compiler) (*Policy, error) {
	c, err := parse(spec.Modules)
	if err != nil {
		return nil, err
	}
	data := map[string]any{}
	if spec.Data != "" {
		d := json.NewDecoder(strings.NewReader(spec.Data))
		d.UseNumber()
		if err := d.Decode(&data); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
	}
	asked, err := ast.ParseRef(spec.Query)
	if err != nil {
		return nil, fmt.Errorf("decision %q: %w", spec.Query, err)
	}
	p := &Policy{spec: spec, store: inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true)), needs: inputNeeds(c, asked, allRules(c))}
	p.compiler = rewrite(c, p.store)
	if p.decide, err = p.prepare(spec.Query); err != nil {
		return nil, err
	}
	if cacheable(c) {
		p.tokens = newTokens()
		if deterministic(c) {
			p.memo = &memo{}
			p.tokenRules = tokenRules(p.compiler)
		}
	}
	if !hasDefault(c, spec.Query) {
		p.warnings = append(p.warnings, spec.Query+" has no default: requests that no rule decides have no decision (write: default "+spec.Query[strings.LastIndexByte(spec.Query, '.')+1:]+" := false)")
	}
	return p, nil
}

func parse(texts map[string]string) (*ast.Compiler, error) {
	modules := map[string]*ast.Module{}
	for name, text := range texts {
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
	return c, nil
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
