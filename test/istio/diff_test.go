package istio

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"istio.io/istio/pkg/log"

	"github.com/tulle-mesh/tulle/internal/resource"
)

var (
	only = flag.String("case", "", "judge only the cases whose name starts with this")
	seed = flag.Uint64("seed", 0, "first seed of the generated configurations; 0 takes the clock")
	n    = flag.Int("n", 60, "how many configurations to generate")
)

// count is how the configurations of a test ended.
type count struct{ total, byChoice, wrong int }

func (c *count) add(v *verdict) {
	c.total++
	switch {
	case !v.ok():
		c.wrong++
	case v.byChoice:
		c.byChoice++
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	options := log.DefaultOptions()
	options.SetDefaultOutputLevel(log.OverrideScopeName, log.NoneLevel) // Istio's control plane talks while it starts
	if err := log.Configure(options); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestDiff judges every file of cases/ and as many generated configurations as
// -n says. It fails on a difference that decisions.yaml does not name, and on
// an entry there that names nothing any more.
func TestDiff(t *testing.T) {
	paths, err := filepath.Glob("cases/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	decisions, err := readDecisions("decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c count
	judged := func(name string, w *world) {
		t.Run(name, func(t *testing.T) {
			v := judge(t, w, decisions)
			c.add(v)
			if !v.ok() {
				t.Error(v)
			}
		})
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		if !strings.HasPrefix(name, *only) {
			continue
		}
		w, err := readWorld(name, "base.yaml", path)
		if err != nil {
			t.Fatal(err)
		}
		judged(name, w)
	}
	if *only == "" {
		for _, w := range generatedWorlds(t) {
			judged(w.name, w)
		}
		for _, d := range decisions {
			if !d.used {
				t.Errorf("decisions.yaml: nothing differs there any more: case %q, path %q, refused %q", d.Case, d.Path, d.Refused)
			}
		}
	}
	fmt.Printf("%d configurations, %d agree, %d differ by decision\n", c.total, c.total-c.byChoice-c.wrong, c.byChoice)
	if c.wrong > 0 {
		fmt.Printf("%d differ otherwise\n", c.wrong)
	}
}

func generatedWorlds(t *testing.T) []*world {
	base, err := os.ReadFile("base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	first := *seed
	if first == 0 {
		first = uint64(time.Now().Unix())
	}
	fmt.Printf("generated configurations: -seed %d -n %d\n", first, *n)
	var out []*world
	for i := range *n {
		out = append(out, generated(first+uint64(i), resource.File{Name: "base.yaml", Data: base}))
	}
	return out
}

// The same seed makes the same configuration, or a report could not be
// repeated.
func TestGenerated(t *testing.T) {
	text := func(s uint64) string { return string(generated(s, resource.File{Name: "base.yaml"}).files[1].Data) }
	if text(7) != text(7) || text(7) == text(8) {
		t.Error("a seed does not decide the configuration")
	}
}
