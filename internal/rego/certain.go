package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// certain: whatever the input, no evaluation of the policy ends in an error (but
// for its deadline), and every rule has one value or none. Then it makes no
// difference in which order, how often and how completely rules are evaluated,
// which is all that partial evaluation and remembered documents change. A
// policy that may conflict is evaluated as it is written: a conflict that the
// one way meets the other may not reach.
//
// It may find too few certain, never too many.
func certain(c *ast.Compiler) bool {
	groups := map[string][]*ast.Rule{}
	ok := true
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			if r.Default {
				continue
			}
			if r.Head.RuleKind() == ast.SingleValue && !r.Ref().IsGround() {
				return false // elements of an object, of which two may have the same name
			}
			if r.Head.RuleKind() == ast.SingleValue {
				groups[r.Ref().String()] = append(groups[r.Ref().String()], r)
			}
		}
		ok = ok && !mayFail(c, m)
	}
	for _, rules := range groups {
		ok = ok && oneValue(rules)
	}
	return ok
}

// mayFail: what evaluation can end at, beside rules of several values.
func mayFail(c *ast.Compiler, m *ast.Module) bool {
	found := false
	var v *ast.GenericVisitor
	v = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Package: // a name, not a use
			return true
		case *ast.With: // it replaces what anything stands for
			found = true
		case *ast.ObjectComprehension: // two values for one name
			found = true
		case *ast.TemplateString:
			found = true
		case ast.Var: // all of data
			found = found || x.Equal(ast.DefaultRootDocument.Value)
		case ast.Ref:
			found = found || readsAcross(c, x)
			for i := 1; i < len(x); i++ {
				v.Walk(x[i])
			}
			return true
		}
		return found
	})
	v.Walk(m)
	return found
}

// readsAcross: the reference may read documents of rules and data in one, which
// are merged.
func readsAcross(c *ast.Compiler, ref ast.Ref) bool {
	if len(ref) == 0 || !ast.DefaultRootDocument.Equal(ref[0]) {
		return false
	}
	prefix := ref.ConstantPrefix()
	return len(c.GetRulesForVirtualDocument(prefix)) == 0 && len(c.GetRulesWithPrefix(prefix)) > 0
}

// oneValue: rules of one name cannot give it two values.
func oneValue(rules []*ast.Rule) bool {
	if len(rules) == 1 {
		for r := rules[0]; r != nil; r = r.Else {
			if !ast.IsConstant(r.Head.Value.Value) && !once(r.Body) {
				return false
			}
		}
		return true
	}
	for _, first := range rules {
		for r := first; r != nil; r = r.Else {
			if !ast.IsConstant(r.Head.Value.Value) || !r.Head.Value.Equal(rules[0].Head.Value) {
				return false
			}
		}
	}
	return true
}

// once: a body has one solution at most, since nothing in it iterates.
func once(body ast.Body) bool {
	ok := true
	visit := func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.Every: // one value, whatever is inside
			return true
		case *ast.Expr:
			switch x.Terms.(type) {
			case []*ast.Term, *ast.Term, *ast.Every:
			default:
				ok = false
			}
			if b := ast.BuiltinMap[operator(x)]; b != nil && b.Relation {
				ok = false
			}
			return x.Negated || !ok
		case ast.Ref:
			for _, t := range x[min(1, len(x)):] {
				ok = ok && ast.IsConstant(t.Value)
			}
		}
		return !ok
	}
	ast.NewGenericVisitor(visit).Walk(body)
	return ok
}

func operator(e *ast.Expr) string {
	if !e.IsCall() {
		return ""
	}
	return e.Operator().String()
}
