package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// need is a tree of what a policy reads of its input. nil: nothing.
type need struct {
	all  bool
	kids map[string]*need
}

var everything = need{all: true}

// of is what is read below a field.
func (n *need) of(names ...string) *need {
	for _, name := range names {
		switch {
		case n == nil:
			return nil
		case n.all:
			return n
		}
		n = n.kids[name]
	}
	return n
}

// size is how many fields are read of at most that many.
func (n *need) size(all int) int {
	if n.all {
		return all
	}
	return len(n.kids)
}

// add notes that a reference is read whole.
func (n *need) add(path []*ast.Term) {
	for _, t := range path {
		name, ok := t.Value.(ast.String)
		if !ok { // a variable or a number: anything below may be read
			break
		}
		if n.all {
			return
		}
		if n.kids == nil {
			n.kids = map[string]*need{}
		}
		if n.kids[string(name)] == nil {
			n.kids[string(name)] = &need{}
		}
		n = n.kids[string(name)]
	}
	n.all, n.kids = true, nil
}

// inputNeeds finds every reference to the input in compiled rules, which are all
// that the query may evaluate. It may find too much, never too little: a reference that is not known to its end
// stands for all that is below. A rule that only gives a part of the input a
// name (http := input.attributes.request.http) is looked through.
func inputNeeds(c *ast.Compiler, query ast.Ref, rules []*ast.Rule) *need {
	n := &need{}
	names := aliases(c, c.Modules)
	whole := func(r ast.Ref) { // a reference that may read names whole, without saying so
		for _, a := range names {
			if !a.whole && mayContain(r, a.ref) {
				a.whole = true
				n.add(a.input[1:])
			}
		}
	}
	whole(query)
	for _, r := range rules {
		seen := map[*ast.Term]bool{}
		visit := func(x any) bool {
			switch x := x.(type) {
			case *ast.Rule:
				return isAlias(names, x)
			case ast.Ref:
				if len(x) == 0 {
					return n.all
				}
				seen[x[0]] = true
				switch a := aliasOf(names, x); {
				case ast.InputRootDocument.Equal(x[0]):
					n.add(x[1:])
				case a != nil:
					n.add(append(append(ast.Ref{}, a.input[1:]...), x[len(a.ref):]...))
				case ast.DefaultRootDocument.Equal(x[0]):
					whole(x)
				}
			case *ast.Term: // input or data alone
				if v, ok := x.Value.(ast.Var); ok && !seen[x] {
					if v.Equal(ast.InputRootDocument.Value) {
						n.add(nil)
					} else if v.Equal(ast.DefaultRootDocument.Value) {
						whole(ast.Ref{x})
					}
				}
			}
			return n.all
		}
		ast.NewGenericVisitor(visit).Walk(r)
	}
	return n
}

// alias is a rule that only names a part of the input.
type alias struct {
	ref   ast.Ref // data.pkg.name
	input ast.Ref
	rule  *ast.Rule
	whole bool
}

// aliases finds rules of the compiled form: name = v if { v = input.a.b }.
// modules are c's or copies.
func aliases(c *ast.Compiler, modules map[string]*ast.Module) []*alias {
	var out []*alias
	for _, m := range modules {
		for _, r := range m.Rules {
			ref := r.Ref()
			if r.Default || r.Else != nil || len(r.Head.Args) > 0 || r.Head.Key != nil || !ref.IsGround() || len(r.Body) != 1 || len(c.GetRules(ref)) != 1 {
				continue
			}
			e := r.Body[0]
			if !e.IsEquality() || e.Negated || len(e.With) > 0 || !r.Head.Value.Equal(e.Operand(0)) {
				continue
			}
			if in, ok := e.Operand(1).Value.(ast.Ref); ok && ast.InputRootDocument.Equal(in[0]) && in.IsGround() {
				out = append(out, &alias{ref: ref, input: in, rule: r})
			}
		}
	}
	return out
}

func isAlias(names []*alias, r *ast.Rule) bool {
	for _, a := range names {
		if a.rule == r {
			return true
		}
	}
	return false
}

// aliasOf is the alias that r begins with.
func aliasOf(names []*alias, r ast.Ref) *alias {
	for _, a := range names {
		if r.HasPrefix(a.ref) {
			return a
		}
	}
	return nil
}

// mayContain: what r stands for may have the rule in it.
func mayContain(r, rule ast.Ref) bool {
	for i, t := range r {
		if i == len(rule) {
			return false
		}
		if i > 0 && !ast.IsConstant(t.Value) { // a variable
			return true
		}
		if !t.Equal(rule[i]) {
			return false
		}
	}
	return true
}

// allRules are the rules of every module.
func allRules(c *ast.Compiler) (out []*ast.Rule) {
	for _, m := range c.Modules {
		out = append(out, m.Rules...)
	}
	return out
}
