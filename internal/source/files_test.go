package source

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func service(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: %d}]}\n", name, port)
}

func virtualService(name, prefix string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: " + name + "}\nspec:\n  hosts: [" + name + "]\n  http: [{match: [{uri: {prefix: " + prefix + "}}], route: [{destination: {host: a}}]}]\n"
}

func services(s *resource.Set) []string {
	var out []string
	for _, svc := range s.Services {
		out = append(out, fmt.Sprintf("%s:%d", svc.Name, svc.Spec.Spec.Ports[0].Port))
	}
	slices.Sort(out)
	return out
}

func files(paths ...string) *Files {
	return &Files{Paths: paths, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// watch runs a source until the test ends; next waits for an update that ok
// accepts.
func watch(t *testing.T, f *Files) (next func(what string, ok func(Update) bool) Update) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	updates, done := make(chan Update, 16), make(chan error, 1)
	go func() { done <- f.Run(ctx, func(u Update) { updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	deadline := time.NewTimer(20 * time.Second)
	t.Cleanup(func() { deadline.Stop() })
	return func(what string, ok func(Update) bool) Update {
		t.Helper()
		for {
			select {
			case u := <-updates:
				if ok(u) {
					return u
				}
			case err := <-done:
				t.Fatalf("waiting for %s: Run ended: %v", what, err)
			case <-deadline.C:
				t.Fatalf("no update with %s", what)
			}
		}
	}
}

func anything(Update) bool { return true }

func has(list ...string) func(Update) bool {
	return func(u Update) bool { return slices.Equal(services(u.Set), list) }
}

func says(text string) func(Update) bool {
	return func(u Update) bool {
		return slices.ContainsFunc(u.Problems, func(p resource.Problem) bool { return strings.Contains(p.String(), text) })
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), service("a", 1))
	write(t, filepath.Join(dir, "sub", "b.yml"), service("b", 2))
	write(t, filepath.Join(dir, "c.json"), `{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"ports":[{"port":3}]}}`)
	write(t, filepath.Join(dir, "package.json"), `{"name": "not ours"}`)
	write(t, filepath.Join(dir, ".hidden.yaml"), service("hidden", 9))
	write(t, filepath.Join(dir, "notes.txt"), "not: [yaml")
	u := files(dir, filepath.Join(dir, "a.yaml")).Load() // named twice, read once
	if got := services(u.Set); !slices.Equal(got, []string{"a:1", "b:2", "c:3"}) || len(u.Problems) != 0 {
		t.Errorf("have %v, problems %v", got, u.Problems)
	}
	if u := files(filepath.Join(dir, "none")).Load(); len(u.Problems) != 1 || u.Set == nil {
		t.Errorf("a path that is not there: %v", u.Problems)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, service("a", 1))
	next := watch(t, files(dir))
	next("the first content", has("a:1"))
	write(t, file, service("a", 2))
	next("an edit", has("a:2"))
	write(t, filepath.Join(dir, "b.yaml"), service("b", 3))
	next("a new file", has("a:2", "b:3"))
	tmp := filepath.Join(dir, ".a.swp") // as editors write
	write(t, tmp, service("a", 4))
	if err := os.Rename(tmp, file); err != nil {
		t.Fatal(err)
	}
	next("a file moved into place", has("a:4", "b:3"))
	write(t, filepath.Join(dir, "deep", "c.yaml"), service("c", 5))
	next("a new folder", has("a:4", "b:3", "c:5"))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	next("a file removed", has("b:3", "c:5"))
}

func TestWatchSingleFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	next := watch(t, files(file))
	if u := next("a missing file", anything); len(u.Problems) != 1 {
		t.Fatalf("problems %v", u.Problems)
	}
	write(t, file, service("a", 1))
	if u := next("the file", has("a:1")); len(u.Problems) != 0 {
		t.Errorf("problems %v", u.Problems)
	}
}

const kept = "the previous version stays in force"

// An edit that breaks an object or a file keeps what was good and says so.
func TestBrokenEditKeepsLastGood(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "v.yaml"), filepath.Join(dir, "w.yaml")
	write(t, file, service("a", 1)+"---\n"+virtualService("a", "/1"))
	write(t, other, virtualService("b", "/1"))
	next := watch(t, files(dir))
	next("the first content", has("a:1"))
	prefixes := func(u Update) (out []string) {
		for _, v := range u.Set.VirtualServices {
			out = append(out, v.Name+v.Spec.Http[0].Match[0].Uri.GetPrefix())
		}
		return out
	}

	write(t, file, service("a", 2)+"---\n"+strings.Replace(virtualService("a", "/2"), "prefix", "prefx", 1))
	u := next("a misspelt field", says(kept))
	if got := prefixes(u); !slices.Equal(got, []string{"a/1", "b/1"}) || !has("a:2")(u) {
		t.Errorf("misspelt field: have %v and %v, want a as it was, in its place, and the rest new", got, services(u.Set))
	}
	write(t, file, "{")
	u = next("a file that is no YAML", func(u Update) bool { return says("not valid YAML")(u) && says(kept)(u) })
	if got := prefixes(u); !slices.Equal(got, []string{"a/1", "b/1"}) || !has("a:2")(u) {
		t.Errorf("no YAML: have %v and %v", got, services(u.Set))
	}
	write(t, file, service("a", 3)+"---\n"+virtualService("a", "/3"))
	u = next("the mended file", func(u Update) bool { return len(u.Problems) == 0 })
	if got := prefixes(u); !slices.Equal(got, []string{"a/3", "b/1"}) || !has("a:3")(u) {
		t.Errorf("mended: have %v and %v", got, services(u.Set))
	}
}

// A security object that was good stays in force; one that never was denies.
func TestBrokenSecurityEdit(t *testing.T) {
	policy := func(name, rules string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {" + name + "}\nspec: {rules: " + rules + "}\n"
	}
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	write(t, good, policy("name: good", "[{}]"))
	write(t, bad, policy("name: bad", "{}"))
	next := watch(t, files(dir))
	if u := next("the first content", anything); len(u.Set.Denied) != 1 || u.Set.Denied[0].Name != "bad" || len(u.Set.AuthorizationPolicies) != 1 {
		t.Errorf("have %v", u.Set.Denied)
	}
	write(t, good, policy("name: good", "[{form: []}]"))
	if u := next("a misspelt rule", says(kept)); len(u.Set.Denied) != 1 || u.Set.Denied[0].Name != "bad" || len(u.Set.AuthorizationPolicies) != 1 {
		t.Errorf("misspelt rule: denied %v, in force %d", u.Set.Denied, len(u.Set.AuthorizationPolicies))
	}
	write(t, good, policy("labels: {a: b}", "[{}]"))
	u := next("no name", func(u Update) bool { return says("a name is needed")(u) })
	if len(u.Set.AuthorizationPolicies) != 1 || u.Set.AuthorizationPolicies[0].Name != "good" {
		t.Errorf("no name: in force %d, denied %v", len(u.Set.AuthorizationPolicies), u.Set.Denied)
	}
}

func TestBrokenMeshConfigStays(t *testing.T) {
	mesh := func(line string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    " + line + "\n"
	}
	file := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, file, mesh("trustDomain: example.org"))
	next := watch(t, files(file))
	next("the first content", func(u Update) bool { return u.Set.Mesh != nil })
	write(t, file, mesh("trustDomian: example.net"))
	if u := next("a misspelt field", says(kept)); u.Set.Mesh == nil || u.Set.Mesh.TrustDomain != "example.org" {
		t.Errorf("have %v", u.Set.Mesh)
	}
}

func TestKustomization(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "base", "kustomization.yaml"), "resources: [a.yaml]\n")
	write(t, filepath.Join(dir, "base", "a.yaml"), service("a", 1))
	write(t, filepath.Join(dir, "base", "not-listed.yaml"), service("not-listed", 9))
	write(t, filepath.Join(dir, "over", "kustomization.yaml"), "namePrefix: dev-\nresources: [../base]\n")
	plain := files(filepath.Join(dir, "base"))
	if u := plain.Load(); !has("a:1")(u) {
		t.Errorf("plain: %v %v", services(u.Set), u.Problems)
	} else if got := u.Set.Services[0].Origin().Place(); got != filepath.Join(dir, "base", "a.yaml")+":1" {
		t.Errorf("plain: the place of a is %s", got)
	}
	next := watch(t, files(filepath.Join(dir, "over")))
	next("the prefixed name", has("dev-a:1"))
	write(t, filepath.Join(dir, "base", "a.yaml"), service("a", 2))
	next("an edit of the base", has("dev-a:2"))
	write(t, filepath.Join(dir, "over", "kustomization.yaml"), "namePrefix: dev-\nresources: [../bse]\n")
	if u := next("a broken kustomization", says("kustomize")); !has("dev-a:2")(u) {
		t.Errorf("a broken kustomization takes its objects down: %v", services(u.Set))
	}
	write(t, filepath.Join(dir, "over", "kustomization.yaml"), "namePrefix: dev-\nresources: [../none]\n")
	next("another fault", says("none"))
}

func TestLocalManifests(t *testing.T) {
	local := func(manifests string) string {
		return "apiVersion: tulle.dev/v1alpha1\nkind: Local\nmetadata: {name: l}\nspec: {manifests: [" + manifests + "]}\n"
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "local", "tulle.yaml")
	write(t, file, local("../k8s, extra.yaml"))
	write(t, filepath.Join(dir, "k8s", "a.yaml"), service("a", 1))
	write(t, filepath.Join(dir, "local", "extra.yaml"), strings.Replace(local("more.yaml"), "name: l", "name: second", 1))
	write(t, filepath.Join(dir, "local", "more.yaml"), service("b", 2))
	next := watch(t, files(file))
	next("manifests followed, and theirs", has("a:1", "b:2"))
	write(t, filepath.Join(dir, "k8s", "a.yaml"), service("a", 3))
	next("an edit of a manifest", has("a:3", "b:2"))
	write(t, file, strings.Replace(local("../k8s"), "manifests", "manifest", 1))
	if u := next("a broken Local", says("unknown field")); !has("a:3", "b:2")(u) || len(u.Set.Local) != 2 || !says(kept)(u) {
		t.Errorf("a slip in Local takes down what it names: %v, %d Local, %v", services(u.Set), len(u.Set.Local), u.Problems)
	}
}
