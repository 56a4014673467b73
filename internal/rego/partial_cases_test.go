package rego

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
)

// OPA's own conformance cases have the same answers, or errors, from a policy as
// it is written and from what partial evaluation makes of it.
func TestPartialKeepsConformance(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/open-policy-agent/opa/v1/test/cases").Output()
	if err != nil {
		t.Skip("no go command to ask where OPA's cases are")
	}
	set, err := cases.Load(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	compared, evaluated := 0, 0
	for _, c := range set.Sorted().Cases {
		if written, store, ok := compileCase(c); ok {
			compared++
			made := partial(written, store)
			if made != written && text(made) != text(written) {
				evaluated++
			}
			if want, got := answers(t, c, written, store), answers(t, c, made, store); want != got {
				t.Errorf("%s:\n%s\nhas %s\nas it is written %s", c.Note, text(made), got, want)
			}
		}
	}
	if compared < 1500 || evaluated < 200 {
		t.Errorf("%d cases compared, %d evaluated in part", compared, evaluated)
	}
}

// compileCase leaves out what asks the network, and questions with a "with",
// which decisions never have.
func compileCase(c cases.TestCase) (*ast.Compiler, storage.Store, bool) {
	modules := map[string]*ast.Module{}
	for i, m := range c.Modules {
		if strings.Contains(m, "http.send") || strings.Contains(m, "net.lookup") {
			return nil, nil, false
		}
		parsed, err := ast.ParseModuleWithOpts("", m, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil || parsed == nil {
			return nil, nil, false
		}
		modules[string(rune('a'+i))] = parsed
	}
	compiler := ast.NewCompiler()
	if compiler.Compile(modules); compiler.Failed() || strings.Contains(c.Query, " with ") {
		return nil, nil, false
	}
	data := map[string]any{}
	if c.Data != nil {
		data = *c.Data
	}
	return compiler, inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true)), true
}

// answers are all that a query gives, or the error that it ends in.
func answers(t *testing.T, c cases.TestCase, compiler *ast.Compiler, store storage.Store) string {
	t.Helper()
	qc := compiler.QueryCompiler()
	parsed, err := ast.ParseBodyWithOpts(c.Query, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return err.Error()
	}
	body, err := qc.Compile(parsed)
	if err != nil {
		return err.Error()
	}
	txn, err := store.NewTransaction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Abort(t.Context(), txn)
	q := topdown.NewQuery(body).WithQueryCompiler(qc).WithCompiler(compiler).WithStore(store).WithTransaction(txn).
		WithTime(time.Unix(1_700_000_000, 0)).WithSeed(zeros{}).WithNDBuiltinCache(builtins.NDBCache{})
	if c.InputTerm != nil {
		q = q.WithInput(ast.MustParseTerm(*c.InputTerm))
	} else if c.Input != nil {
		q = q.WithInput(ast.NewTerm(ast.MustInterfaceToValue(*c.Input)))
	}
	var out []string
	err = q.Iter(t.Context(), func(r topdown.QueryResult) error {
		var fields []string
		for name, value := range r {
			if !name.IsGenerated() && !name.IsWildcard() {
				fields = append(fields, string(name)+"="+value.String())
			}
		}
		slices.Sort(fields)
		out = append(out, strings.Join(fields, " "))
		return nil
	})
	if err != nil {
		return err.Error()
	}
	slices.Sort(out)
	return "{" + strings.Join(slices.Compact(out), "}{") + "}"
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// text is a policy as it is evaluated.
func text(c *ast.Compiler) string {
	var out []string
	for _, m := range c.Modules {
		out = append(out, m.String())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
