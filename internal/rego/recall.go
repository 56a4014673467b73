package rego

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// tokenRule is a rule whose value is made of a token: it depends on a few headers
// and on the time. It is remembered beside the decisions, which depend on more,
// so that a token's next request does not look into the token again.
type tokenRule struct {
	ref     ast.Ref
	headers []ast.Ref // of the input
}

// maxTokenRules bounds the list that each look into the cache goes through.
const maxTokenRules = 16

// tokenRules finds them in a policy that is certain: there a rule's value is the
// same whoever asks for it.
func tokenRules(c *ast.Compiler) []*tokenRule {
	if !certain(c) {
		return nil
	}
	groups := map[string][]*ast.Rule{}
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			if ref := r.Ref(); len(r.Head.Args) == 0 && ref.IsGround() {
				groups[ref.String()] = append(groups[ref.String()], r)
			}
		}
	}
	var out []*tokenRule
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		rules, verified := reached(c, groups[name])
		if !verified {
			continue
		}
		ref := groups[name][0].Ref()
		if len(out) == maxTokenRules {
			break
		}
		if list := inputNeeds(c, ref, rules).headers(); len(list) > 0 {
			out = append(out, &tokenRule{ref, list})
		}
	}
	return out
}

// reached are the rules that evaluating some may evaluate, they among them;
// verified: one of them looks at a token.
func reached(c *ast.Compiler, from []*ast.Rule) (rules []*ast.Rule, verified bool) {
	seen := map[*ast.Rule]bool{}
	for todo := from; len(todo) > 0; {
		r := todo[0]
		todo = todo[1:]
		if seen[r] {
			continue
		}
		seen[r] = true
		rules = append(rules, r)
		ast.WalkRefs(r, func(ref ast.Ref) bool {
			verified = verified || isVerifier(ref.String())
			todo = append(todo[:len(todo):len(todo)], c.GetRules(ref.ConstantPrefix())...)
			return false
		})
	}
	return rules, verified
}

// headers are the references to what is read when that is named headers of the
// request and nothing else.
func (n *need) headers() (list []ast.Ref) {
	path := ast.Ref{ast.InputRootDocument}
	for _, name := range [...]string{"attributes", "request", "http", "headers"} {
		next := n.kids[name]
		if next == nil || len(n.kids) != 1 {
			return nil
		}
		n, path = next, path.Append(ast.StringTerm(name))
	}
	for _, name := range slices.Sorted(maps.Keys(n.kids)) {
		list = append(list, path.Append(ast.StringTerm(name)))
	}
	return list
}

// recall is one evaluation's cache of documents: those of the policy that are
// remembered come from there and go there.
type recall struct {
	topdown.VirtualCache
	policy *Policy
	input  ast.Value
	watch  *watched
}

// Get implements topdown.VirtualCache.
func (r *recall) Get(ref ast.Ref) (*ast.Term, bool) {
	t, undefined := r.VirtualCache.Get(ref)
	if t != nil || undefined {
		return t, undefined
	}
	key := r.key(ref)
	if key == nil {
		return nil, false
	}
	known := r.policy.known.get(key, r.watch.now)
	if known == nil {
		return nil, false
	}
	r.watch.ends(known.until)
	if known.result != nil {
		t = ast.NewTerm(known.result)
	}
	r.VirtualCache.Put(ref, t)
	return t, t == nil
}

// Put implements topdown.VirtualCache. The tokens that were looked at so far,
// for the document or before it, say until when it holds.
func (r *recall) Put(ref ast.Ref, t *ast.Term) {
	r.VirtualCache.Put(ref, t)
	if key := r.key(ref); key != nil {
		known := &remembered{from: r.watch.now, until: r.watch.until}
		if t != nil {
			known.result = t.Value
		}
		r.policy.known.put(key, known)
	}
}

// key is what is asked of a document that is remembered; nil: it is not.
func (r *recall) key(ref ast.Ref) []byte {
	for i, d := range r.policy.tokenRules {
		if !ref.Equal(d.ref) {
			continue
		}
		key := binary.AppendUvarint(nil, uint64(i))
		for _, h := range d.headers {
			v, err := r.input.Find(h[1:])
			if err != nil {
				key = append(key, 0)
				continue
			}
			s, ok := v.(ast.String)
			if !ok {
				return nil
			}
			key = field(append(key, 1), true, string(s))
		}
		if len(key) > maxQuestion {
			return nil
		}
		return key
	}
	return nil
}
