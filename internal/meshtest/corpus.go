package meshtest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// pathModes are the columns of the path corpus.
var pathModes = []string{"NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"}

// pathCase is one line of testdata/paths/corpus.txt, which describes itself.
type pathCase struct {
	place string
	only  string // "h1", "h2" or "" for both
	sent  string
	want  map[string]string // by mode, with query; "400": refused
}

func readCorpus(path string) ([]pathCase, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []pathCase
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "# ") || line == "#" {
			continue
		}
		c := pathCase{place: fmt.Sprintf("%s:%d", path, i+1), want: map[string]string{}}
		if word, rest, _ := strings.Cut(line, " "); word == "h1" || word == "h2" {
			c.only, line = word, rest
		}
		if quoted, err := strconv.QuotedPrefix(line); err == nil {
			c.sent, _ = strconv.Unquote(quoted)
			line = "QUOTED " + line[len(quoted):]
		}
		words := strings.Fields(line)
		if len(words) != 1+len(pathModes) {
			return nil, fmt.Errorf("%s: want a path and one for each of %v", c.place, pathModes)
		}
		if c.sent == "" {
			c.sent = words[0]
		}
		for j, mode := range pathModes {
			c.want[mode] = words[1+j]
			if words[1+j] == "=" {
				c.want[mode] = c.sent
			}
		}
		out = append(out, c)
	}
	return out, nil
}
