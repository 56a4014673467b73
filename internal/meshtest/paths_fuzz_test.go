package meshtest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/route"
)

// FuzzPaths sends arbitrary request targets through a sidecar in front of
// which /admin and what is below it are forbidden. Nothing that gets through
// may mean /admin, and what gets through is what route and policies would make
// of it again.
func FuzzPaths(f *testing.F) {
	cases, err := readCorpus("testdata/paths/corpus.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add(c.sent)
	}
	var worlds []*pathWorld
	for _, mode := range pathModes {
		w := newPathWorld(f, mode, nil)
		for i, d := range w.docs {
			if d.kind == "AuthorizationPolicy" {
				w.docs[i] = identify(document{file: "deny.yaml", line: 1, text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: shop}\nspec: {action: DENY, rules: [{to: [{operation: {ports: [\"8080\"], paths: [/admin, /admin/*]}}]}]}\n"})
			}
		}
		if problems, err := w.reconcile(); err != nil || len(problems) > 0 {
			f.Fatal(problems, err)
		}
		worlds = append(worlds, w)
		f.Cleanup(func() {
			w.app.Close()
			w.close()
		})
	}
	f.Fuzz(func(t *testing.T, target string) {
		if target == "" || strings.ContainsAny(target, " \r\n") {
			return // another request than it says
		}
		for _, w := range worlds {
			for _, protocol := range []string{"h1", "h2"} {
				w.ids++
				id := strconv.Itoa(w.ids)
				status, _ := w.send("legacy", protocol, target, id)
				got := w.reached(id)
				if got == nil {
					if status == 200 {
						t.Errorf("%s %s %q: 200 from nobody", w.mode, protocol, target)
					}
					continue
				}
				p, _, _ := strings.Cut(got.RequestURI, "?")
				if again, err := route.NormalizePath(w.mode, p); err != nil || again != p {
					t.Errorf("%s %s %q: forwarded as %q, which is %q again (%v)", w.mode, protocol, target, p, again, err)
				}
				if why := bypass(w.mode, p); why != "" || p == "/admin" || strings.HasPrefix(p, "/admin/") {
					t.Errorf("%s %s %q: got through: %s %s", w.mode, protocol, target, p, why)
				}
			}
		}
	})
}
