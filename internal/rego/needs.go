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

// inputNeeds finds every reference to the input in the compiled rules. It may
// find too much, never too little: a reference that is not known to its end
// stands for all that is below.
func inputNeeds(c *ast.Compiler) *need {
	n := &need{}
	for _, m := range c.Modules {
		seen := map[*ast.Term]bool{}
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case ast.Ref:
				if len(x) > 0 {
					seen[x[0]] = true
					if ast.InputRootDocument.Equal(x[0]) {
						n.add(x[1:])
					}
				}
			case *ast.Term: // input alone
				if v, ok := x.Value.(ast.Var); ok && !seen[x] && v.Equal(ast.InputRootDocument.Value) {
					n.add(nil)
				}
			}
			return n.all
		}).Walk(m)
	}
	return n
}
