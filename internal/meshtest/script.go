package meshtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// script is a *.mesh file taken apart. README.md has the grammar.
type script struct {
	file      string // as errors name it
	dir       string
	protocols []protocol
	steps     []*step
}

// step is an unindented line with the indented lines under it.
type step struct {
	line  int
	text  string
	block []blockLine
}

type blockLine struct {
	line int
	text string // YAML: with its indentation; else trimmed
}

// document is one YAML document of the configuration with where it stands.
type document struct {
	file                  string
	line                  int
	text                  string
	kind, namespace, name string
}

// note is what a comment in the configuration says the user is told:
// "# problem: TEXT" or "# warning: TEXT" behind the line that has it.
type note struct {
	file     string
	line     int
	severity string
	text     string
}

// blocks of these steps are YAML.
var yamlSteps = map[string]bool{"config": true, "apply": true}

func parseScript(path string) (*script, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &script{file: filepath.Base(path), dir: filepath.Dir(path), protocols: []protocol{overH1}}
	var last *step
	for i, text := range strings.Split(string(b), "\n") {
		n := i + 1
		indented := strings.HasPrefix(text, " ") || strings.HasPrefix(text, "\t")
		raw := last != nil && yamlSteps[last.text]
		switch trimmed := strings.TrimSpace(text); {
		case trimmed == "" && !raw, strings.HasPrefix(trimmed, "#") && !(raw && indented):
		case indented && last == nil:
			return nil, fmt.Errorf("%s:%d: an indented line belongs to a step, and there is none before it", s.file, n)
		case indented && raw, trimmed == "":
			last.block = append(last.block, blockLine{n, text})
		case indented:
			last.block = append(last.block, blockLine{n, uncomment(trimmed)})
		default:
			last = &step{line: n, text: uncomment(trimmed)}
			if list, ok := strings.CutPrefix(last.text, "over "); ok {
				s.protocols = nil
				for _, p := range strings.Fields(list) {
					s.protocols = append(s.protocols, protocol(p))
				}
				continue
			}
			s.steps = append(s.steps, last)
		}
	}
	return s, nil
}

// uncomment cuts a comment that follows two blanks.
func uncomment(s string) string {
	if i := strings.Index(s, "  #"); i >= 0 {
		s = s[:i]
	}
	return strings.TrimSpace(s)
}

// yamlOf are the documents of a step's block, and the notes in it.
func (s *script) yamlOf(st *step) ([]document, []note) {
	indent := -1
	for _, l := range st.block {
		if n := len(l.text) - len(strings.TrimLeft(l.text, " ")); strings.TrimSpace(l.text) != "" && (indent < 0 || n < indent) {
			indent = n
		}
	}
	first := st.line + 1
	if len(st.block) > 0 {
		first = st.block[0].line
	}
	lines := make([]string, 0, len(st.block))
	for _, l := range st.block {
		for first+len(lines) < l.line { // comment lines that belonged to no block
			lines = append(lines, "")
		}
		lines = append(lines, strings.TrimSuffix(l.text[min(max(indent, 0), len(l.text)):], "\r"))
	}
	return splitYAML(s.file, first, lines)
}

var noted = regexp.MustCompile(`#\s*(problem|warning): (.*)$`)

func splitYAML(file string, first int, lines []string) (docs []document, notes []note) {
	start := 0
	flush := func(end int) {
		text := strings.Join(lines[start:end], "\n") + "\n"
		if strings.TrimSpace(text) != "" {
			docs = append(docs, identify(document{file: file, line: first + start, text: text}))
		}
		start = end + 1
	}
	for i, l := range lines {
		if m := noted.FindStringSubmatch(l); m != nil {
			notes = append(notes, note{file, first + i, map[string]string{"problem": "error", "warning": "warning"}[m[1]], strings.TrimSpace(m[2])})
		}
		if strings.TrimRight(l, " ") == "---" {
			flush(i)
		}
	}
	flush(len(lines))
	return docs, notes
}

// identify reads who a document is, as far as it can be read.
func identify(d document) document {
	var head struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if yaml.Unmarshal([]byte(d.text), &head) == nil {
		d.kind, d.namespace, d.name = head.Kind, head.Metadata.Namespace, head.Metadata.Name
	}
	return d
}

// same reports whether d replaces e.
func (d *document) same(e *document) bool {
	return d.name != "" && d.kind == e.kind && d.namespace == e.namespace && d.name == e.name
}
