package opa

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// masked headers never reach the decision log.
var masked = []string{"authorization", "cookie", "proxy-authorization"}

// DecisionLog writes one line of JSON per decision in OPA's event form. Safe
// for concurrent use.
type DecisionLog struct {
	mu  sync.Mutex
	out io.Writer
}

// NewDecisionLog writes to out.
func NewDecisionLog(out io.Writer) *DecisionLog { return &DecisionLog{out: out} }

// write logs a decision and returns its id.
func (l *DecisionLog) write(query string, input ast.Value, result any, took time.Duration, failure error) string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	id := fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
	doc, err := ast.JSON(input)
	if err == nil {
		mask(doc)
	}
	event := map[string]any{
		"decision_id": id, "timestamp": time.Now().UTC().Format(time.RFC3339Nano), "query": query, "input": doc, "result": result,
		"metrics": map[string]any{"timer_rego_query_eval_ns": took.Nanoseconds()}, "msg": "Decision Log", "type": "openpolicyagent.org/decision_logs",
	}
	if failure != nil {
		event["error"] = map[string]string{"message": failure.Error()}
	}
	b, err := json.Marshal(event)
	if err != nil {
		b = []byte(fmt.Sprintf(`{"decision_id":%q,"error":{"message":%q}}`, id, err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.out.Write(append(b, '\n')) // a failing log must not fail decisions
	return id
}

// mask replaces secrets in a document that ast.JSON made, which is our own copy.
func mask(doc any) {
	path := []string{"attributes", "request", "http", "headers"}
	for _, key := range path {
		m, ok := doc.(map[string]any)
		if !ok {
			return
		}
		doc = m[key]
	}
	headers, ok := doc.(map[string]any)
	if !ok {
		return
	}
	for _, name := range masked {
		if _, ok := headers[name]; ok {
			headers[name] = "**REDACTED**"
		}
	}
}
