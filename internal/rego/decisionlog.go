package rego

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tulle-mesh/tulle/internal/authz"
)

// secrets never reach the decision log, whatever the mask says.
var secrets = []string{
	"/input/attributes/request/http/headers/authorization",
	"/input/attributes/request/http/headers/cookie",
	"/input/attributes/request/http/headers/proxy-authorization",
	"/input/attributes/request/http/headers/x-api-key",
}

// DecisionLog writes one line of JSON per decision in OPA's event form. Safe
// for concurrent use.
type DecisionLog struct {
	mu  sync.Mutex
	out io.Writer
}

// NewDecisionLog writes to out.
func NewDecisionLog(out io.Writer) *DecisionLog { return &DecisionLog{out: out} }

// newID is a random UUID (RFC 9562, version 4).
func newID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}

// logTimeout bounds the rules that mask or drop an event.
const logTimeout = 100 * time.Millisecond

func (l *DecisionLog) write(ctx context.Context, p *Policy, id string, doc map[string]any, result ast.Value, start time.Time, took time.Duration, failure error) {
	event := map[string]any{
		"decision_id": id, "timestamp": start.UTC().Format(time.RFC3339Nano), "input": doc,
		"path":    strings.ReplaceAll(strings.TrimPrefix(p.spec.Query, "data."), ".", "/"),
		"metrics": map[string]any{"timer_server_handler_ns": took.Nanoseconds()}, "msg": "Decision Log", "type": "openpolicyagent.org/decision_logs",
	}
	if len(p.spec.Labels) > 0 {
		event["labels"] = p.spec.Labels
	}
	if result != nil {
		if v, err := ast.JSON(result); err == nil {
			event["result"] = v
		}
	}
	if failure != nil {
		event["error"] = map[string]any{"message": failure.Error()}
	}
	if p.dropped(ctx, event) {
		return
	}
	p.mask(ctx, event)
	b, err := json.Marshal(event)
	if err != nil {
		b = []byte(fmt.Sprintf(`{"decision_id":%q,"error":{"message":%q}}`, id, err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.out.Write(append(b, '\n')) // a failing log must not fail decisions
}

// system evaluates a rule of the policy that is about the event; nil: there is
// none, or it cannot be evaluated.
func (p *Policy) system(ctx context.Context, path, fallback string, event map[string]any) (ast.Value, error) {
	ref := fallback
	if path != "" {
		ref = Query(path)
	}
	r, err := ast.ParseRef(ref)
	if err != nil || len(p.compiler.GetRules(r)) == 0 {
		return nil, err
	}
	q, err := p.prepare(ref)
	if err != nil {
		return nil, err
	}
	input, err := ast.InterfaceToValue(event)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	v, err := p.eval(ctx, q, input, now, now.Add(logTimeout))
	if err == ErrUndefined {
		return nil, nil
	}
	return v, err
}

func (p *Policy) dropped(ctx context.Context, event map[string]any) bool {
	v, err := p.system(ctx, p.spec.DropPath, "data.system.log.drop", event)
	return err == nil && v != nil && v.Compare(ast.Boolean(true)) == 0
}

// mask takes out what data.system.log.mask names, and secrets. Where the rule
// fails nothing of the input is written.
func (p *Policy) mask(ctx context.Context, event map[string]any) {
	erase := append([]string(nil), secrets...)
	v, err := p.system(ctx, p.spec.MaskPath, "data.system.log.mask", event)
	var doc any
	if err == nil && v != nil {
		doc, err = ast.JSON(v)
	}
	if err != nil {
		delete(event, "input")
		delete(event, "result")
		event["error"] = map[string]any{"message": "the rule that masks failed: " + err.Error()}
		return
	}
	list, _ := doc.([]any)
	for _, m := range list {
		switch m := m.(type) {
		case string:
			erase = append(erase, m)
		case map[string]any:
			path, _ := m["path"].(string)
			if m["op"] == "upsert" {
				if change(event, path, m["value"], true) {
					note(event, "masked", path)
				}
			} else {
				erase = append(erase, path)
			}
		}
	}
	for _, path := range erase {
		if change(event, path, nil, false) {
			note(event, "erased", path)
		}
	}
}

// maxEvidence bounds each document of a denial's evidence.
const maxEvidence = 8 << 10

// evidence is a decision's input and result as the decision log would have them.
func (p *Policy) evidence(r *authz.External, result ast.Value) (input, output []byte) {
	doc, err := Document(r, p.spec.SkipBody)
	if err != nil {
		return nil, nil
	}
	event := map[string]any{"input": doc}
	if result != nil {
		if v, err := ast.JSON(result); err == nil {
			event["result"] = v
		}
	}
	p.mask(context.Background(), event)
	part := func(name string) []byte {
		if event[name] == nil {
			return nil
		}
		b, err := json.Marshal(event[name])
		if err != nil || len(b) > maxEvidence {
			return nil
		}
		return b
	}
	return part("input"), part("result")
}

func note(event map[string]any, key, path string) {
	list, _ := event[key].([]string)
	event[key] = append(list, path)
}

// change sets or removes what a JSON pointer below /input or /result names. The
// documents are this decision's own.
func change(event map[string]any, path string, value any, set bool) bool {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if parts[0] != "input" && parts[0] != "result" {
		return false
	}
	var at any = event
	for _, part := range parts[:len(parts)-1] {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		at = m[part]
	}
	m, ok := at.(map[string]any)
	last := parts[len(parts)-1]
	if _, there := m[last]; !ok || !there && !set {
		return false
	}
	if set {
		m[last] = value
	} else {
		delete(m, last)
	}
	return true
}
