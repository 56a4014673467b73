// Package house holds no code, only the tests of the house rules: which room
// may import which, and what no file may contain.
package house

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

const module = "github.com/tulle-mesh/tulle"

// order says who may import whom: "a, b < c, d" lets c and d import a and b.
// NONE < x: x imports nothing of ours. Anything not written here fails.
// Words with a dot or slash-less library names are fences on dependencies:
// only the rooms on their right may import them.
const order = `
NONE < ir, identity, telemetry, header, wire, console, jwks, backoff;
backoff < xds, ca, workloadapi, machine;
wire < upstream, proxy;
header < h1, h2;
ir < resource;                                  # for Origin only: where the user wrote something
resource < source;
resource, ir < compile;
ir < route, authz, nameserver;
identity < ca, workloadapi;
ca, identity < tokenreview;
authz, ir < rego, opa, extauthz;
rego < opa;
rego < resource;                                # to say where a policy is wrong
ir, authz, header, jwks < jwt;
jwks < resource, compile, control;
ir, telemetry, header, h1, h2 < upstream;
route, authz, jwt, upstream, h1, h2, header, telemetry, ir < proxy;
resource, compile, route, authz, jwt, header, ir < explain;
ir < xds;
telemetry < admin;
NONE < capture;
capture, resource, ir < machine;
capture < agent;
resource, source, compile, explain, xds, admin, ir < control;
xds, ca, proxy, admin, identity, telemetry, ir, authz, extauthz, upstream, nameserver, workloadapi < agent;
control, agent, machine, capture, source, resource, ca, xds, extauthz, authz, rego, ir, identity, admin < up;
proxy < up;                                     # for what its pages show: Edge and Denial
workloadapi < up;                               # the control plane's part: JWT-SVIDs are signed there
up, control, agent, machine, source, resource, compile, explain, opa, rego, ir, identity < cli;
cli < cmd/tulle;
agent < cmd/tulle-proxy;
resource, source, compile, explain, route, authz, jwt, jwks, header, control, agent, opa, rego, extauthz, ca, xds, ir, identity, admin, telemetry, proxy, upstream, h1, header, machine < meshtest;
source, compile, resource, xds, ca, up, agent, authz, header, extauthz, rego, identity, ir < bench;
resource, opa < examples;
`

// fences: libraries that only the named rooms may import.
var fences = map[string][]string{
	"github.com/envoyproxy/go-control-plane": {"xds", "extauthz", "opa", "meshtest"},
	"github.com/open-policy-agent/opa":       {"rego", "opa", "examples"},
	"google.golang.org/grpc":                 {"xds", "ca", "opa", "extauthz", "agent", "up", "bench", "meshtest", "workloadapi"},
	"github.com/spiffe/go-spiffe":            {"workloadapi"},
	"google.golang.org/protobuf":             {"xds", "ca", "opa", "extauthz", "resource", "compile", "source", "control", "meshtest", "workloadapi"},
	"istio.io/api":                           {"resource", "compile", "ca", "explain", "source", "bench", "examples"},
	"k8s.io":                                 {"resource", "compile", "machine", "source", "up", "examples", "meshtest", "tokenreview"},
	"github.com/google/nftables":             {"capture"},
	"github.com/vishvananda/netlink":         {"machine", "capture"},
	"github.com/go-jose/go-jose":             {"ca", "jwt", "jwks", "up", "meshtest", "examples", "bench"},
	"github.com/spf13/cobra":                 {"cli"},
	"gopkg.in/yaml.v3":                       {"resource", "source", "compile", "opa"},
}

// allowed parses order into importer → imported rooms.
func allowed(t *testing.T) map[string]map[string]bool {
	rules := map[string]map[string]bool{}
	var text strings.Builder
	for _, line := range strings.Split(order, "\n") {
		line, _, _ = strings.Cut(line, "#")
		text.WriteString(line)
	}
	for _, rule := range strings.Split(text.String(), ";") {
		if strings.TrimSpace(rule) == "" {
			continue
		}
		left, right, ok := strings.Cut(rule, "<")
		if !ok {
			t.Fatalf("rule %q has no <", rule)
		}
		for _, importer := range strings.Split(right, ",") {
			importer = strings.TrimSpace(importer)
			if rules[importer] == nil {
				rules[importer] = map[string]bool{}
			}
			for _, imported := range strings.Split(left, ",") {
				rules[importer][strings.TrimSpace(imported)] = true
			}
		}
	}
	return rules
}

// room is the folder that rules speak of: "proxy", "cmd/tulle", "examples".
func room(dir string) string {
	dir = strings.TrimPrefix(filepath.ToSlash(dir), "internal/")
	for _, top := range []string{"examples", "bench", "test"} {
		if dir == top || strings.HasPrefix(dir, top+"/") {
			return top
		}
	}
	return dir
}

func eachGoFile(t *testing.T, f func(path string)) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "node_modules" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			f(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func relative(t *testing.T, path string) string {
	rel, err := filepath.Rel(filepath.Join("..", ".."), path)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.ToSlash(rel)
}

func TestImportOrder(t *testing.T) {
	rules := allowed(t)
	var wrong []string
	eachGoFile(t, func(path string) {
		rel := relative(t, path)
		here := room(filepath.Dir(rel))
		test := strings.HasSuffix(rel, "_test.go")
		if here == "test" || here == "house" || here == "deps" {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range file.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			if rest, ok := strings.CutPrefix(p, module+"/"); ok {
				there := room(rest)
				if there != here && !rules[here][there] && !test {
					wrong = append(wrong, rel+": "+here+" must not import "+there+": there is no \""+there+" < "+here+"\" in the order (internal/house/imports_test.go)")
				}
				continue
			}
			for lib, rooms := range fences {
				if (p == lib || strings.HasPrefix(p, lib+"/")) && !contains(rooms, here) && !test {
					wrong = append(wrong, rel+": "+here+" must not import "+p+": it is fenced into "+strings.Join(rooms, ", "))
				}
			}
		}
	})
	sort.Strings(wrong)
	for _, w := range wrong {
		t.Error(w)
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func TestHouseRules(t *testing.T) {
	self := "internal/house/"
	eachGoFile(t, func(path string) {
		rel := relative(t, path)
		if strings.HasPrefix(rel, self) {
			return
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		test := strings.HasSuffix(rel, "_test.go")
		forbid := func(what, why string) {
			if i := strings.Index(text, what); i >= 0 {
				t.Errorf("%s:%d: %q: %s", rel, 1+strings.Count(text[:i], "\n"), what, why)
			}
		}
		forbid("TO"+"DO", "a listed feature is there or refused with a clear error; plans belong in issues")
		forbid("FIX"+"ME", "mend it or say in a comment what an operator should know")
		if test {
			forbid("time."+"Sleep(", "tests do not sleep: use testing/synctest, a channel, or poll with a deadline")
		} else {
			forbid("time."+"After(", "the timer leaks until it fires: use time.NewTimer and stop it")
			forbid("func in"+"it()", "no effects at import: constructors take what they need")
			if n := strings.Count(text, "\n"); n > 600 {
				t.Errorf("%s: %d lines; past 600 a file asks for a split by concern", rel, n)
			}
		}
	})
}
