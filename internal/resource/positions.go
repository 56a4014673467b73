package resource

import "strings"

// Positions maps field paths of one object to lines of its file. Read-only
// after decoding.
type Positions struct {
	File  string
	lines map[string]int
}

// NewPositions takes ownership of lines: field path → 1-based line, "" being
// the object itself.
func NewPositions(file string, lines map[string]int) *Positions {
	return &Positions{File: file, lines: lines}
}

// Line of the field, or of its nearest enclosing field that was written.
func (p *Positions) Line(path string) int {
	for {
		if n, ok := p.lines[path]; ok {
			return n
		}
		if path == "" {
			return 0
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			cut = 0
		}
		path = path[:cut]
	}
}
