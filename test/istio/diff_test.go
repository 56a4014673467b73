package istio

import (
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

var only = flag.String("case", "", "judge only the cases whose name starts with this")

// TestCases judges every file of cases/ and fails on a difference that
// decisions.yaml does not name, and on an entry there that names nothing.
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("cases/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	decisions, err := readDecisions("decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	total, byChoice := 0, 0
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		if !strings.HasPrefix(name, *only) {
			continue
		}
		total++
		t.Run(name, func(t *testing.T) {
			w, err := readWorld(name, "base.yaml", path)
			if err != nil {
				t.Fatal(err)
			}
			v := judge(t, w, decisions)
			if !v.ok() {
				t.Error(v)
			} else if v.byChoice {
				byChoice++
			}
		})
	}
	if *only == "" {
		for _, d := range decisions {
			if !d.used {
				t.Errorf("decisions.yaml: nothing differs there any more: case %q, path %q, refused %q", d.Case, d.Path, d.Refused)
			}
		}
	}
	if !t.Failed() {
		fmt.Printf("%d configurations, %d agree, %d differ by decision\n", total, total-byChoice, byChoice)
	}
}
