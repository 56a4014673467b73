package rego

import (
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tulle-mesh/tulle/internal/authz"
)

// memo remembers decisions by all that the policy read for them. A policy and
// its data never change (a new one has a new memo); what is left that could
// make the same question have another answer is looked for in the policy, and
// then nothing is remembered: see deterministic. Tokens are the exception: a
// decision is forgotten when one that it looked at begins or ceases to be valid.
type memo struct {
	mu       sync.RWMutex
	now, old map[string]*remembered // guarded by mu
}

type remembered struct {
	verdict authz.Verdict
	result  ast.Value
	from    time.Time // when it was made: a clock that was set back makes it void
	until   time.Time
}

const (
	maxDecisions = 2048
	maxQuestion  = 4 << 10 // bytes; longer ones are decided each time
	maxRemember  = time.Minute
)

// question appends what the policy reads of a request; ok is false where the
// memory is of no use: no two requests are alike, or they are too large.
func (n *need) question(b []byte, r *authz.External) (key []byte, ok bool) {
	attr := n.of("attributes")
	for _, never := range [...]*need{attr.of("source", "address"), attr.of("request", "time"), attr.of("request", "http", "id")} {
		if never != nil {
			return b, false
		}
	}
	http := attr.of("request", "http")
	whole := n.of("parsed_path") != nil || n.of("parsed_query") != nil || http.of("path") != nil || http.of("headers", ":path") != nil
	b = field(b, n.of("source_principal") != nil || attr.of("source") != nil, r.SourcePrincipal)
	b = field(b, attr.of("destination") != nil, r.DestinationPrincipal)
	if attr.of("destination") != nil {
		b = r.DestinationAddress.AppendTo(b)
	}
	b = field(b, attr.of("tlsSession") != nil, r.SNI)
	b = field(b, whole, r.Path)
	b = field(b, true, r.Method)
	b = field(b, http.of("host") != nil || http.of("headers", ":authority") != nil, r.Host)
	b = field(b, http.of("scheme") != nil || http.of("headers", ":scheme") != nil, r.Scheme)
	b = field(b, http.of("protocol") != nil, r.Protocol)
	if attr.of("contextExtensions") != nil && len(r.ContextExtensions) > 0 {
		return b, false
	}
	headers := http.of("headers")
	body := len(r.Body) > 0
	framing := body || n.of("truncated_body") != nil || n.of("parsed_body") != nil // they tell a body that was not sent along
	if r.Headers != nil && (headers != nil || framing) {
		r.Headers(func(name, value string) bool {
			if headers.of(name) != nil || framing && (name == "content-type" || name == "content-length" || name == partialBody) {
				b = field(field(b, true, name), true, value)
			}
			return true
		})
	}
	b = field(b, true, "") // no header has this name: what follows is no header
	if body {
		form := [...]byte{'w', 'p', 'W', 'P'} // whole, in part; as bytes
		i := 0
		if r.BodyTruncated {
			i++
		}
		if r.RawBody {
			i += 2
		}
		b = append(append(b, form[i]), r.Body...)
	}
	return b, len(b) <= maxQuestion
}

// field appends s with its length, so that no two lists of fields look alike.
func field(b []byte, read bool, s string) []byte {
	if !read {
		return b
	}
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (m *memo) get(key []byte, now time.Time) *remembered {
	m.mu.RLock()
	d, aged := m.now[string(key)], false
	if d == nil {
		d = m.old[string(key)]
		aged = d != nil
	}
	m.mu.RUnlock()
	if d == nil || now.Before(d.from) || !now.Before(d.until) {
		return nil
	}
	if aged { // it is in use
		m.put(key, d)
	}
	return d
}

func (m *memo) put(key []byte, d *remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.now) >= maxDecisions/2 {
		m.now, m.old = nil, m.now
	}
	if m.now == nil {
		m.now = map[string]*remembered{}
	}
	m.now[string(key)] = d
}

// deterministic: the same input has the same decision, but for the validity of
// tokens. OPA marks the builtins that look elsewhere: the clock, the network,
// chance, the process.
func deterministic(c *ast.Compiler) bool {
	same := true
	check := func(name string) {
		if b, ok := ast.BuiltinMap[name]; ok && b.IsNondeterministic() && name != ast.JWTDecodeVerify.Name {
			same = false
		}
		if strings.HasPrefix(name, ast.CryptoX509ParseAndVerifyCertificates.Name) { // by the clock, and not marked
			same = false
		}
	}
	for _, m := range c.Modules {
		ast.WalkTerms(m, func(t *ast.Term) bool {
			if ref, ok := t.Value.(ast.Ref); ok {
				check(ref.String())
			}
			return !same
		})
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if e.IsCall() {
				check(e.Operator().String())
			}
			return !same
		})
	}
	return same
}
