package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// pure are the builtins that may be called while a policy is compiled: all of
// them answer the same question alike for ever, and take time and memory in
// proportion to their operands, so that no policy can make its compilation dear.
// None of them calculates: a number such as 1e999999999 is short only as text.
var pure = builtinsByName(
	ast.JSONMarshal, ast.JSONUnmarshal, ast.JSONIsValid,
	ast.Base64Encode, ast.Base64Decode, ast.Base64IsValid, ast.Base64UrlEncode, ast.Base64UrlEncodeNoPad, ast.Base64UrlDecode,
	ast.HexEncode, ast.HexDecode, ast.URLQueryEncode, ast.URLQueryDecode,
	ast.Lower, ast.Upper, ast.Split, ast.Contains, ast.StartsWith, ast.EndsWith, ast.IndexOf,
	ast.TrimPrefix, ast.TrimSuffix, ast.TrimSpace,
	ast.Count, ast.ObjectKeys, ast.ArrayConcat, ast.CryptoSha256,
)

func builtinsByName(list ...*ast.Builtin) map[string]*ast.Builtin {
	out := map[string]*ast.Builtin{}
	for _, b := range list {
		out[b.Name] = b
	}
	return out
}

// call evaluates a call of a pure builtin on constants: its output equals the
// value. nil leaves the call as it is, also when it fails: then it fails each
// time.
func (f *folder) call(e *ast.Expr) *ast.Expr {
	if e.Negated || !e.IsCall() {
		return nil
	}
	b := pure[e.Operator().String()]
	if b == nil || len(e.Operands()) != len(b.Decl.FuncArgs().Args)+1 {
		return nil
	}
	size := 0
	operands := e.Operands()
	output := operands[len(operands)-1]
	for _, o := range operands[:len(operands)-1] {
		if !ast.IsConstant(o.Value) {
			return nil
		}
		size += len(o.Value.String())
	}
	if size > maxConstant {
		return nil
	}
	terms := append([]*ast.Term{e.OperatorTerm()}, operands[:len(operands)-1]...)
	asked := ast.NewBody(ast.NewExpr(append(terms, ast.NewTerm(answer))))
	var result ast.Value
	n := 0
	err := topdown.NewQuery(asked).WithCompiler(f.compiler).WithStore(f.store).WithTransaction(f.txn).Iter(f.ctx, func(r topdown.QueryResult) error {
		result, n = r[answer].Value, n+1
		return nil
	})
	if err != nil || n != 1 {
		return nil
	}
	if result = f.afford(result); result == nil {
		return nil
	}
	out := ast.Equality.Expr(output, ast.NewTerm(result))
	out.Location = e.Location
	return out
}

// binding is what the expression gives to a variable of the compiler's that
// nothing has used so far, or nil.
func (f *folder) binding(r *ast.Rule, i int) (ast.Var, ast.Value) {
	e := r.Body[i]
	if e.Negated || !e.IsEquality() {
		return "", nil
	}
	v, ok := e.Operand(0).Value.(ast.Var)
	value := e.Operand(1).Value
	if !ok {
		v, ok = e.Operand(1).Value.(ast.Var)
		value = e.Operand(0).Value
	}
	if !ok || !v.IsGenerated() || !ast.IsConstant(value) {
		return "", nil
	}
	if mentions(r.Head.Args, v) || mentions(r.Body[:i], v) {
		return "", nil
	}
	if value = f.afford(value); value == nil {
		return "", nil
	}
	return v, value
}

func mentions(x any, v ast.Var) bool {
	found := false
	ast.WalkVars(x, func(w ast.Var) bool {
		found = found || w == v
		return found
	})
	return found
}

// substitute puts the value wherever the rule has the variable.
func (f *folder) substitute(r *ast.Rule, v ast.Var, value ast.Value) {
	f.rewrite(r, func(x any) (any, error) {
		if w, ok := x.(ast.Var); ok && w == v {
			return value, nil
		}
		return x, nil
	})
}
