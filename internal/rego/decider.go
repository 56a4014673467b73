package rego

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// defaultTimeout bounds a decision whose provider names no timeout. (Istio's
// 600 s are for a network in between.)
const defaultTimeout = time.Second

// Host holds the policies of one process: each is compiled once, however many
// chains and providers use it. Safe for concurrent use.
type Host struct {
	decisions io.Writer
	log       *slog.Logger

	mu       sync.Mutex
	policies map[string]*shared // by content; guarded by mu
}

type shared struct {
	policy *Policy
	users  int
}

// NewHost returns a host whose decision logs go to decisions.
func NewHost(decisions io.Writer, log *slog.Logger) *Host {
	return &Host{decisions: decisions, log: log, policies: map[string]*shared{}}
}

// Provider decides for a CUSTOM provider with f.Rego. It must be closed.
func (h *Host) Provider(f *ir.ExtAuthz) (authz.Provider, error) {
	key := ir.Hash(f.Rego)
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.policies[key]
	if s == nil {
		p, err := Compile(f.Rego)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Rego.Name, err)
		}
		s = &shared{policy: p}
		h.policies[key] = s
		h.log.Info("policy compiled", "policy", f.Rego.Name, "decision", f.Rego.Query)
		for _, w := range p.Warnings() {
			h.log.Warn(w, "policy", f.Rego.Name)
		}
	}
	s.users++
	d := &Decider{policy: s.policy, timeout: f.Timeout.D(), contract: true, release: func() { h.release(key) }}
	if f.Rego.DecisionLog {
		d.log = NewDecisionLog(h.decisions)
	}
	return d, nil
}

func (h *Host) release(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.policies[key]; s != nil {
		if s.users--; s.users == 0 {
			delete(h.policies, key)
		}
	}
}

// Decider answers requests with one policy. It implements authz.Provider.
type Decider struct {
	policy   *Policy
	log      *DecisionLog // nil: none
	timeout  time.Duration
	contract bool // what the policy's settings say of missing decisions; false: an error is an error
	release  func()
}

// NewDecider decides for others, who have rules of their own for a missing
// decision. log may be nil.
func NewDecider(p *Policy, log *DecisionLog, timeout time.Duration) *Decider {
	return &Decider{policy: p, log: log, timeout: timeout, release: func() {}}
}

// Close gives the policy back.
func (d *Decider) Close() error {
	d.release()
	return nil
}

// Check implements authz.Provider.
func (d *Decider) Check(ctx context.Context, r *authz.External) authz.Verdict {
	start := time.Now()
	var buf [512]byte
	key, again := d.question(buf[:0], r)
	if again && d.log == nil {
		if known := d.policy.memo.get(key, start); known != nil {
			return d.finish(known.verdict, known.result, r)
		}
	}
	input, doc, err := d.policy.input(r, d.log != nil)
	if err != nil { // a path or body that cannot be read is refused, not decided
		return authz.Verdict{Status: 400, Body: err.Error()}
	}
	v, result, err := d.decide(ctx, key, again, input, start)
	if err != nil {
		v = d.without(err)
	}
	if d.log != nil {
		d.record(ctx, &v, doc, result, start, err)
	}
	return d.finish(v, result, r)
}

// question is the key of a decision that may be remembered.
func (d *Decider) question(b []byte, r *authz.External) ([]byte, bool) {
	if d.policy.memo == nil {
		return nil, false
	}
	if path, _, _ := strings.Cut(r.Path, "?"); r.HTTP {
		if _, err := splitPath(path); err != nil {
			return nil, false
		}
	}
	return d.policy.needs.question(b, r)
}

// decide evaluates, unless the decision is remembered.
func (d *Decider) decide(ctx context.Context, key []byte, again bool, input ast.Value, start time.Time) (v authz.Verdict, result ast.Value, err error) {
	if again {
		if known := d.policy.memo.get(key, start); known != nil {
			return known.verdict, known.result, nil
		}
	}
	timeout := d.timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	result, until, err := d.policy.evalUntil(ctx, d.policy.decide, input, start, start.Add(timeout))
	if err == nil {
		v, err = interpret(result)
	}
	if err == nil && again {
		d.policy.memo.put(key, &remembered{v, result, start, until})
	}
	return v, result, err
}

// finish lets everything pass where the policy is only tried, and gives a denial
// its evidence.
func (d *Decider) finish(v authz.Verdict, result ast.Value, r *authz.External) authz.Verdict {
	if d.policy.spec.DryRun {
		return authz.Verdict{Allow: true, Detail: v.Detail, Metadata: v.Metadata}
	}
	if !v.Allow && d.contract {
		v.Evidence = func() ([]byte, []byte) { return d.policy.evidence(r, result) }
	}
	return v
}

// without is the verdict where there is no decision.
func (d *Decider) without(err error) authz.Verdict {
	if !d.contract {
		return authz.Verdict{Err: err}
	}
	outcome := d.policy.spec.OnError
	switch {
	case errors.Is(err, ErrUndefined):
		outcome = d.policy.spec.OnUndefined
	case errors.Is(err, ErrTimeout):
		outcome = d.policy.spec.OnTimeout
	}
	switch outcome {
	case ir.RegoAllow:
		return authz.Verdict{Allow: true}
	case ir.RegoFail:
		return authz.Verdict{Err: fmt.Errorf("%s: %w", d.policy.spec.Name, err)}
	}
	return authz.Verdict{}
}

func (d *Decider) record(ctx context.Context, v *authz.Verdict, doc map[string]any, result ast.Value, start time.Time, err error) {
	v.Detail = newID()
	metadata := map[string]any{"decision_id": v.Detail} // v's own may be remembered
	for k, one := range v.Metadata {
		metadata[k] = one
	}
	v.Metadata = metadata
	d.log.write(ctx, d.policy, v.Detail, doc, result, start, time.Since(start), err)
}
