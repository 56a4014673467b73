// Package opa is the embedded Open Policy Agent: Rego from files, decided in
// this process, served as Envoy's ext_authz v3 and as OPA's REST API. A policy
// moves between this and openpolicyagent/opa-envoy-plugin unchanged: the input
// and decision documents are the same.
package opa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"sigs.k8s.io/yaml"
)

const (
	maxPolicyFile  = 4 << 20
	maxPolicyFiles = 2000
)

// Engine evaluates one query over the newest good policy. Safe for concurrent
// use; Load calls must not overlap.
type Engine struct {
	query   string
	current atomic.Pointer[policy]
}

// policy is one loaded state.
type policy struct {
	prepared rego.PreparedEvalQuery
	compiler *ast.Compiler
	store    storage.Store
	modules  map[string]string
	warnings []string
}

// NewEngine returns an engine without policy: every decision is an error
// until Load has succeeded once. query is a path such as envoy/authz/allow.
func NewEngine(path string) *Engine {
	if path == "" {
		path = "envoy/authz/allow"
	}
	return &Engine{query: "data." + strings.ReplaceAll(strings.Trim(path, "/"), "/", ".")}
}

// Load reads policies and data from files and folders and puts them in force.
// On error (with file, line and column) the last good policy stays.
func (e *Engine) Load(ctx context.Context, paths []string) error {
	modules, data, err := read(paths)
	if err != nil {
		return err
	}
	return e.set(ctx, modules, data)
}

func (e *Engine) set(ctx context.Context, modules map[string]string, data map[string]any) error {
	parsed := map[string]*ast.Module{}
	for name, text := range modules {
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return err
		}
		parsed[name] = m
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(parsed); compiler.Failed() {
		return compiler.Errors
	}
	store := inmem.NewFromObject(data)
	prepared, err := rego.New(rego.Query(e.query), rego.Compiler(compiler), rego.Store(store)).PrepareForEval(ctx)
	if err != nil {
		return err
	}
	p := &policy{prepared: prepared, compiler: compiler, store: store, modules: modules}
	if !hasDefault(parsed, e.query) {
		p.warnings = append(p.warnings, e.query+" has no default: requests that no rule decides are errors, and a provider with failOpen lets them pass (write: default allow := false)")
	}
	e.current.Store(p)
	return nil
}

// Warnings about the policy in force.
func (e *Engine) Warnings() []string {
	if p := e.current.Load(); p != nil {
		return p.warnings
	}
	return nil
}

func hasDefault(modules map[string]*ast.Module, query string) bool {
	for _, m := range modules {
		for _, r := range m.Rules {
			if r.Default && m.Package.Path.String()+"."+r.Head.Name.String() == query {
				return true
			}
		}
	}
	return false
}

var errNoPolicy = errors.New("no policy is loaded")

// eval runs the query; the result is the decision document.
func (e *Engine) eval(ctx context.Context, input ast.Value) (result any, took time.Duration, err error) {
	p := e.current.Load()
	if p == nil {
		return nil, 0, errNoPolicy
	}
	defer func() {
		if r := recover(); r != nil { // a builtin must not take the process down
			err = fmt.Errorf("evaluation panicked: %v", r)
		}
	}()
	start := time.Now()
	rs, err := p.prepared.Eval(ctx, rego.EvalParsedInput(input))
	took = time.Since(start)
	switch {
	case err != nil:
		return nil, took, err
	case len(rs) == 0:
		return nil, took, errors.New("the decision is undefined")
	case len(rs) > 1 || len(rs[0].Expressions) != 1:
		return nil, took, errors.New("the query has several results")
	}
	return rs[0].Expressions[0].Value, took, nil
}

// read collects .rego files (tests left out) and data documents.
func read(paths []string) (map[string]string, map[string]any, error) {
	modules, data := map[string]string{}, map[string]any{}
	var files []string
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && path != p && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir // ..data of a ConfigMap: its files are linked beside it
			}
			files = append(files, path)
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if len(files) > maxPolicyFiles {
		return nil, nil, fmt.Errorf("more than %d policy files", maxPolicyFiles)
	}
	sort.Strings(files)
	for _, path := range files {
		base := filepath.Base(path)
		rego := strings.HasSuffix(base, ".rego") && !strings.HasSuffix(base, "_test.rego")
		isData := base == "data.json" || base == "data.yaml" || base == "data.yml"
		if !rego && !isData {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, nil, err
		}
		if info.IsDir() {
			continue
		}
		if info.Size() > maxPolicyFile {
			return nil, nil, fmt.Errorf("%s: larger than %d MiB", path, maxPolicyFile>>20)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		if rego {
			modules[path] = string(b)
			continue
		}
		if b, err = yaml.YAMLToJSON(b); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		var doc map[string]any
		if err := json.Unmarshal(b, &doc); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		for k, v := range doc {
			if _, ok := data[k]; ok {
				return nil, nil, fmt.Errorf("%s: data.%s is defined twice", path, k)
			}
			data[k] = v
		}
	}
	if len(modules) == 0 {
		return nil, nil, fmt.Errorf("no .rego file in %v", paths)
	}
	return modules, data, nil
}
