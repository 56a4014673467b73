package rego

import (
	"slices"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// tokens remembers which tokens' signatures were verified by which keys. It is
// OPA's own cache io_jwt, whose builtins look at exp, nbf, iss and aud anew each
// time, with bounds that callers cannot pass: they choose the tokens.
type tokens struct {
	jwt, keys bucket
}

const (
	maxTokens = 1024
	maxToken  = 4 << 10 // bytes; longer ones are verified each time
	maxKeys   = 64      // parsed key sets
)

func newTokens() *tokens {
	return &tokens{jwt: bucket{limit: maxTokens}, keys: bucket{limit: maxKeys}}
}

// GetCache implements cache.InterQueryValueCache.
func (t *tokens) GetCache(name string) cache.InterQueryValueCacheBucket {
	switch name {
	case "io_jwt":
		return &t.jwt
	case "io_jwt_keys":
		return &t.keys
	}
	return nil
}

// Get implements cache.InterQueryValueCache: of what has no name nothing is kept.
func (t *tokens) Get(ast.Value) (any, bool) { return nil, false }

// Insert implements cache.InterQueryValueCache.
func (t *tokens) Insert(ast.Value, any) int { return 0 }

// Delete implements cache.InterQueryValueCache.
func (t *tokens) Delete(ast.Value) {}

// UpdateConfig implements cache.InterQueryValueCache.
func (t *tokens) UpdateConfig(*cache.Config) {}

// bucket keeps at most limit values: when it is full, the older half goes.
type bucket struct {
	limit    int
	mu       sync.RWMutex
	now, old map[int][]*pair // by hash; guarded by mu
	size     int             // of now; guarded by mu
}

// pair is read-only once it is in a bucket.
type pair struct {
	key   ast.Value
	value any
	turns []time.Time // of a token
}

// Get implements cache.InterQueryValueCacheBucket.
func (b *bucket) Get(key ast.Value) (any, bool) {
	if p := b.find(key); p != nil {
		return p.value, true
	}
	return nil, false
}

// find returns nil where nothing is known.
func (b *bucket) find(key ast.Value) *pair {
	h := key.Hash()
	b.mu.RLock()
	p, aged := find(b.now[h], key), false
	if p == nil {
		p = find(b.old[h], key)
		aged = p != nil
	}
	b.mu.RUnlock()
	if aged {
		b.insert(p) // it is in use
	}
	return p
}

func find(list []*pair, key ast.Value) *pair {
	for _, p := range list {
		if p.key.Compare(key) == 0 {
			return p
		}
	}
	return nil
}

// Insert implements cache.InterQueryValueCacheBucket.
func (b *bucket) Insert(key ast.Value, value any) int {
	b.insert(&pair{key: key, value: value})
	return 0
}

func (b *bucket) insert(p *pair) {
	if len(tokenOf(p.key)) > maxToken {
		return
	}
	h := p.key.Hash()
	b.mu.Lock()
	defer b.mu.Unlock()
	if find(b.now[h], p.key) != nil {
		return
	}
	if b.size >= b.limit/2 {
		b.now, b.old, b.size = nil, b.now, 0
	}
	if b.now == nil {
		b.now = map[int][]*pair{}
	}
	b.now[h] = append(b.now[h], p)
	b.size++
}

// tokenOf is the token of a key that has one, with its keys: "" where the key is
// of something else.
func tokenOf(key ast.Value) string {
	if a, ok := key.(*ast.Array); ok && a.Len() > 0 {
		if s, ok := a.Elem(0).Value.(ast.String); ok {
			return string(s)
		}
	}
	return ""
}

// Delete implements cache.InterQueryValueCacheBucket.
func (b *bucket) Delete(key ast.Value) {
	h := key.Hash()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range []map[int][]*pair{b.now, b.old} {
		m[h] = slices.DeleteFunc(m[h], func(p *pair) bool { return p.key.Compare(key) == 0 })
	}
}

// cacheable: every place of the policy that verifies tokens asks alike. OPA
// remembers a signature by token and keys only; where one place takes what
// another must not (another algorithm), a memory of the first would answer the
// second.
func cacheable(c *ast.Compiler) bool {
	kinds := map[string]bool{}
	for _, m := range c.Modules {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if e.IsCall() {
				if kind, verifies := verifier(e); verifies {
					kinds[kind] = true
				}
			}
			return false
		})
		ast.WalkTerms(m, func(t *ast.Term) bool {
			if call, ok := t.Value.(ast.Call); ok && isVerifier(call[0].String()) {
				kinds["nested "+call[0].String()] = true
			}
			return false
		})
	}
	return len(kinds) <= 1 && !kinds[""]
}

func isVerifier(name string) bool {
	return name == ast.JWTDecodeVerify.Name || len(name) > 14 && name[:14] == "io.jwt.verify_"
}

// verifier names what a call demands of a signature; "" where that is not
// known before it runs.
func verifier(e *ast.Expr) (kind string, verifies bool) {
	name := e.Operator().String()
	if !isVerifier(name) {
		return "", false
	}
	if name != ast.JWTDecodeVerify.Name {
		return name, true
	}
	constraints, ok := e.Operand(1).Value.(ast.Object)
	if !ok {
		return "", true
	}
	alg := constraints.Get(ast.StringTerm("alg"))
	switch {
	case alg == nil:
		return name, true
	case ast.IsConstant(alg.Value):
		return name + " " + alg.String(), true
	}
	return "", true
}
