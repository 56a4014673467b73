package rego

import (
	"context"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// partial evaluates of a policy what no request can change: names of parts of
// the input, constants, data, and calls of pure builtins on them. Rules keep
// their names, so that every query on the result has the answer that it has on
// the policy as written. (OPA's own partial evaluation inlines rules: what was
// computed once for all its uses is computed for each, tokens too.)
//
// The policy as written is returned where it is not certain, and where the
// result does not compile or is too large.
func partial(c *ast.Compiler, store storage.Store) *ast.Compiler {
	if !certain(c) {
		return c
	}
	ctx := context.Background() // nothing waits: the store is in memory
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return c
	}
	defer store.Abort(ctx, txn)
	f := &folder{ctx: ctx, compiler: c, store: store, txn: txn, modules: map[string]*ast.Module{}, copies: map[*ast.Rule]*ast.Rule{}, budget: maxFolded}
	for name, m := range c.Modules {
		f.modules[name] = m.Copy()
		for i, r := range m.Rules {
			f.copies[r] = f.modules[name].Rules[i]
		}
	}
	before := written(f.modules)
	for range maxRounds { // what one round finds constant the next may use
		if !f.round() {
			break
		}
	}
	if f.failed || written(f.modules) > before+maxFolded {
		return c
	}
	out := ast.NewCompiler()
	if out.Compile(f.modules); out.Failed() {
		return c
	}
	return out
}

const (
	maxRounds   = 16
	maxFolded   = 64 << 10 // bytes, as text, that constants may add to a policy
	maxConstant = 16 << 10 // bytes of one
	maxBody     = 200      // expressions; longer rules stay: each is compared with each
)

func written(modules map[string]*ast.Module) (bytes int) {
	for _, m := range modules {
		for _, r := range m.Rules {
			bytes += len(r.String())
		}
	}
	return bytes
}

// folder rewrites copies of a policy's compiled modules.
type folder struct {
	ctx      context.Context
	compiler *ast.Compiler // of the policy as written: which rules there are
	store    storage.Store
	txn      storage.Transaction
	modules  map[string]*ast.Module
	copies   map[*ast.Rule]*ast.Rule // in modules, of the policy's
	budget   int                     // bytes left

	names   map[*ast.Rule]*alias // of copies
	changed bool
	failed  bool // a rule could not be rewritten, or only in part
}

// round rewrites every rule once; false: there was nothing to do.
func (f *folder) round() bool {
	f.changed, f.names = false, map[*ast.Rule]*alias{}
	for _, a := range aliases(f.compiler, f.modules) {
		f.names[a.rule] = a
	}
	for _, name := range slices.Sorted(maps.Keys(f.modules)) {
		for _, r := range f.modules[name].Rules {
			for ; r != nil; r = r.Else {
				f.rule(r)
			}
		}
	}
	return f.changed
}

// rule resolves references first, which makes operands constant; then it
// evaluates calls on them, and puts what variables are bound to in their places.
func (f *folder) rule(r *ast.Rule) {
	if r.Default || f.names[r] != nil || len(r.Body) > maxBody {
		return
	}
	f.resolve(r)
	for i, e := range r.Body {
		if out := f.call(e); out != nil {
			r.Body[i], f.changed = out, true
		}
	}
	for i := 0; i < len(r.Body); i++ {
		if v, value := f.binding(r, i); value != nil {
			r.Body = append(r.Body[:i:i], r.Body[i+1:]...)
			f.substitute(r, v, value)
			f.changed = true
			i--
		}
	}
	if len(r.Body) == 0 {
		r.Body = ast.NewBody(ast.NewExpr(ast.BooleanTerm(true)))
	}
	r.Body = ast.NewBody(r.Body...)
}

// resolve replaces references in what a rule evaluates; its name stays.
func (f *folder) resolve(r *ast.Rule) {
	f.rewrite(r, func(x any) (any, error) {
		ref, ok := x.(ast.Ref)
		if !ok || len(ref) == 0 || !ast.DefaultRootDocument.Equal(ref[0]) {
			return x, nil
		}
		var v ast.Value
		switch rules := f.compiler.GetRulesForVirtualDocument(ref); {
		case len(rules) == 1:
			v = f.ofRule(f.copies[rules[0]], ref)
		case len(rules) == 0 && len(f.compiler.GetRulesWithPrefix(ref)) == 0:
			v = f.ofData(ref)
		}
		if v == nil {
			return x, nil
		}
		f.changed = true
		return v, nil
	})
}

// rewrite puts what each makes of the nodes of a rule's body, key and value in
// their places.
func (f *folder) rewrite(r *ast.Rule, each func(x any) (any, error)) {
	t := ast.NewGenericTransformer(each)
	for _, e := range r.Body {
		if _, err := ast.Transform(t, e); err != nil {
			f.failed = true
		}
	}
	for _, term := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if term == nil {
			continue
		}
		v, err := ast.Transform(t, term.Value)
		value, ok := v.(ast.Value)
		if err != nil || !ok {
			f.failed = true
			return
		}
		term.Value = value
	}
}

// ofRule is what a reference to a rule, or below it, stands for where that is a
// name of a part of the input, or a constant; otherwise nil.
func (f *folder) ofRule(r *ast.Rule, ref ast.Ref) ast.Value {
	name := r.Ref()
	if a := f.names[r]; a != nil {
		return slices.Concat(a.input, ref[len(name):])
	}
	if !constant(r) || !named(ref) || !ref.HasPrefix(name) {
		return nil
	}
	v, err := r.Head.Value.Value.Find(ref[len(name):])
	if err != nil {
		return nil // undefined
	}
	return f.afford(v)
}

// constant: the rule gives its document whole, and always the same.
func constant(r *ast.Rule) bool {
	if r.Default || r.Else != nil || len(r.Head.Args) > 0 || r.Head.RuleKind() != ast.SingleValue || !ast.IsConstant(r.Head.Value.Value) || len(r.Body) != 1 {
		return false
	}
	t, ok := r.Body[0].Terms.(*ast.Term)
	return ok && !r.Body[0].Negated && ast.Boolean(true).Equal(t.Value)
}

// named: nothing but names, so that there is one way to read the reference. (A
// store takes a number for a name.)
func named(ref ast.Ref) bool {
	for _, t := range ref[1:] {
		if _, ok := t.Value.(ast.String); !ok {
			return false
		}
	}
	return true
}

// ofData is what the data has at a reference below which there is no rule, or
// nil.
func (f *folder) ofData(ref ast.Ref) ast.Value {
	if !named(ref) {
		return nil
	}
	path, err := storage.NewPathForRef(ref)
	if err != nil {
		return nil
	}
	found, err := f.store.Read(f.ctx, f.txn, path)
	if err != nil {
		return nil // undefined
	}
	v, _ := found.(ast.Value)
	return f.afford(v)
}

// afford is v when it may be copied into the policy, and pays for it.
func (f *folder) afford(v ast.Value) ast.Value {
	if v == nil || !ast.IsConstant(v) {
		return nil
	}
	n := len(v.String())
	if n > maxConstant || n > f.budget {
		return nil
	}
	f.budget -= n
	return ast.NewTerm(v).Copy().Value // the store's own is not rewritten
}
