package up

import (
	"io"
	"strings"
	"testing"
)

// The event of one decision is found among an OPA's other lines, however they
// are cut, and shows no secret.
func TestFindDecision(t *testing.T) {
	log := `2026-01-01T00:00:00Z OPA serves
{"decision_id":"other","input":{"a":1},"result":true}
{"msg":"about seven","id":"seven"}
2026-01-01T00:00:01Z {"decision_id":"seven","input":{"attributes":{"request":{"http":{"headers":{"authorization":"Bearer secret","accept":"*/*"}}}}},"result":{"allowed":false}}
{"decision_id":"seven","input":
`
	for _, size := range []int{1, 7, len(log)} {
		f := &decisionFinder{id: "seven"}
		if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{strings.NewReader(log)}, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		const input = `{"attributes":{"request":{"http":{"headers":{"accept":"*/*","authorization":"masked"}}}}}`
		if string(f.input) != input || string(f.result) != `{"allowed":false}` {
			t.Errorf("in pieces of %d: input %s, result %s", size, f.input, f.result)
		}
	}
	f := &decisionFinder{id: "nobody"}
	_, _ = f.Write([]byte(log))
	if f.input != nil {
		t.Errorf("found %s", f.input)
	}
}
