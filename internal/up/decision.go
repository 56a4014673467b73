package up

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// logTail is how many of a workload's last lines are searched for a decision.
const logTail = 5000

// addDecision completes what a sidecar knows of an OPA's answer by the event in
// that OPA's decision log, which has the same id. Any OPA of the room that logs
// to its console will do; the ids are random, so that no application can speak
// for one.
func (r *room) addDecision(ctx context.Context, e *proxy.DenialExternal) {
	if e == nil || e.DecisionID == "" || e.Input != nil {
		return
	}
	for _, w := range r.machine.Workloads() {
		find := &decisionFinder{id: e.DecisionID}
		if r.machine.Logs(ctx, w.Key(), machine.AppContainer, machine.LogOptions{Tail: logTail}, find) == nil && find.input != nil {
			e.Input, e.Result = find.input, find.result
			return
		}
	}
}

// decisionFinder is a writer of log lines that keeps the event of one decision.
type decisionFinder struct {
	id            string
	rest          []byte // of a line that has not ended
	input, result json.RawMessage
}

// Write implements io.Writer.
func (f *decisionFinder) Write(b []byte) (int, error) {
	f.rest = append(f.rest, b...)
	for {
		line, rest, ok := bytes.Cut(f.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		f.rest = rest
		f.line(line)
	}
}

func (f *decisionFinder) line(line []byte) {
	start := bytes.IndexByte(line, '{') // behind a time, maybe
	if start < 0 || !bytes.Contains(line, []byte(f.id)) {
		return
	}
	var event struct {
		ID     string          `json:"decision_id"`
		Input  map[string]any  `json:"input"`
		Result json.RawMessage `json:"result"`
	}
	if json.Unmarshal(line[start:], &event) != nil || event.ID != f.id || event.Input == nil {
		return
	}
	maskHeaders(event.Input)
	if input, err := json.Marshal(event.Input); err == nil {
		f.input, f.result = input, event.Result
	}
}

// maskHeaders takes secrets out of an input document, whatever the OPA's own
// mask left in it.
func maskHeaders(input map[string]any) {
	var at any = input
	for _, name := range []string{"attributes", "request", "http", "headers"} {
		m, ok := at.(map[string]any)
		if !ok {
			return
		}
		at = m[name]
	}
	headers, _ := at.(map[string]any)
	for name := range headers {
		if authz.SecretHeader(name) {
			headers[name] = "masked"
		}
	}
}
