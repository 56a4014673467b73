package rego

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// watched is the memory of tokens as one evaluation uses it: it notes when a
// token that was looked at begins or ceases to be valid.
type watched struct {
	*tokens
	now   time.Time
	until time.Time
}

// GetCache implements cache.InterQueryValueCache.
func (w *watched) GetCache(name string) cache.InterQueryValueCacheBucket {
	if name == "io_jwt" {
		return &watchedBucket{&w.jwt, w}
	}
	return w.tokens.GetCache(name)
}

type watchedBucket struct {
	*bucket
	by *watched
}

// Get implements cache.InterQueryValueCacheBucket.
func (b *watchedBucket) Get(key ast.Value) (any, bool) {
	p := b.find(key)
	if p == nil {
		return nil, false // Insert follows, or the token is bad at all times
	}
	b.by.see(p.turns)
	return p.value, true
}

// Insert implements cache.InterQueryValueCacheBucket.
func (b *watchedBucket) Insert(key ast.Value, value any) int {
	p := &pair{key, value, turns(tokenOf(key))} // also a token inside a token
	b.by.see(p.turns)
	b.insert(p)
	return 0
}

func (w *watched) see(turns []time.Time) {
	for _, t := range turns {
		w.ends(t)
	}
}

// ends: the answer may be another one at t.
func (w *watched) ends(t time.Time) {
	if t.After(w.now) && t.Before(w.until) {
		w.until = t
	}
}

// turns are the moments at which a token begins and ceases to be valid.
func turns(token string) []time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return nil
	}
	var claims map[string]any // not a struct, which takes Exp for exp
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber() // as OPA: one that is too large for a float is no error
	if d.Decode(&claims) != nil {
		return nil
	}
	var out []time.Time
	for _, name := range [...]string{"exp", "nbf"} {
		n, _ := claims[name].(json.Number)
		if f, err := n.Float64(); err == nil && math.Abs(f) < 1e11 {
			out = append(out, time.Unix(0, int64(f*1e9)))
		}
	}
	return out
}
