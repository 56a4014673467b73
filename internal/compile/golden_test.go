package compile

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files of testdata")

// TestGolden compiles testdata/NAME/in.yaml and compares the problems and the
// snapshots with out.golden. The first lines of in.yaml say
//
//	# nodes: the workloads to compile for
//	# show: the parts of their snapshots to print (all when left out)
//
// Every Deployment runs its replicas at 10.244.0.1 and up; the annotation
// sidecar.istio.io/inject "false" keeps one out of the mesh, the label istio
// makes it a gateway, and istio-locality (region.zone.subzone) places it.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no testdata (%v)", err)
	}
	for _, in := range inputs {
		dir := filepath.Dir(in)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			data, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			got := render(t, data)
			golden := filepath.Join(dir, "out.golden")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs (go test ./internal/compile -update, then read the difference):\n%s", golden, firstDifference(string(want), string(got)))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d:\n- %s\n+ %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines wanted, %d there", len(w), len(g))
}

func render(t *testing.T, data []byte) []byte {
	t.Helper()
	set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: data}})
	set.Workloads = run(set)
	x := Prepare(set)
	var out bytes.Buffer
	var shots []*ir.Snapshot
	for _, name := range strings.Fields(directive(data, "nodes")) {
		shots = append(shots, x.Snapshot(nodeNamed(t, x, name)))
	}
	for _, p := range append(problems, x.Problems()...) {
		fmt.Fprintf(&out, "%s: %s\n", p.Severity, p)
	}
	for _, d := range set.Denied {
		fmt.Fprintf(&out, "denied: %s %v\n", d.Origin(), d.MatchLabels)
	}
	for _, s := range shots {
		fmt.Fprintf(&out, "== %s %s/%s\n", s.Node.Type, s.Node.Namespace, s.Node.Name)
		b, err := json.MarshalIndent(shown(s, strings.Fields(directive(data, "show"))), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// directive finds a leading comment "# name: value".
func directive(data []byte, name string) string {
	for _, line := range strings.Split(string(data), "\n") {
		if !strings.HasPrefix(line, "#") {
			break
		}
		if v, ok := strings.CutPrefix(line, "# "+name+":"); ok {
			return v
		}
	}
	return ""
}

func shown(s *ir.Snapshot, parts []string) any {
	if !slices.Contains(parts, "names") { // most tests are about something else
		c := *s
		c.Listeners = slices.DeleteFunc(slices.Clone(s.Listeners), func(l *ir.Listener) bool { return l.DNS != nil })
		s = &c
	}
	if len(parts) == 0 {
		c := *s
		c.Version = ""
		return c
	}
	all := map[string]any{"listeners": s.Listeners, "routes": s.Routes, "clusters": s.Clusters, "endpoints": s.Endpoints, "secrets": s.Secrets, "names": named(s)}
	out := map[string]any{}
	for _, p := range parts {
		out[p] = all[p]
	}
	return out
}

func named(s *ir.Snapshot) *ir.DNS {
	for _, l := range s.Listeners {
		if l.DNS != nil {
			return l.DNS
		}
	}
	return nil
}

func nodeNamed(t *testing.T, x *Index, name string) ir.Node {
	t.Helper()
	w := x.Workload(name)
	if w == nil {
		t.Fatalf("no workload %q", name)
	}
	n := x.Node(w)
	if w.Labels["istio"] != "" {
		n.Type = ir.Router
	}
	return n
}

// run makes the instances of every Deployment.
func run(set *resource.Set) []*resource.Workload {
	var out []*resource.Workload
	for _, d := range set.Deployments {
		replicas := 1
		if r := d.Spec.Spec.Replicas; r != nil {
			replicas = int(*r)
		}
		template := d.Spec.Spec.Template
		for i := range replicas {
			out = append(out, instance(&d.Meta, i, len(out)+1, template.ObjectMeta, &template.Spec))
		}
	}
	return out
}

func instance(owner *resource.Meta, i, n int, m metav1.ObjectMeta, spec *corev1.PodSpec) *resource.Workload {
	w := &resource.Workload{
		Name: fmt.Sprintf("%s-%d", owner.Name, i), Namespace: owner.Namespace, Owner: owner.Name, OwnerKind: owner.Kind,
		Labels: m.Labels, Annotations: m.Annotations, ServiceAccount: spec.ServiceAccountName,
		Address: netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), ClusterID: "local", Ready: true, Sidecar: m.Annotations["sidecar.istio.io/inject"] != "false",
	}
	w.Locality = resource.PodLocality(m.Labels)
	if w.ServiceAccount == "" {
		w.ServiceAccount = "default"
	}
	for _, c := range spec.Containers {
		for _, p := range c.Ports {
			w.Ports = append(w.Ports, resource.WorkloadPort{Name: p.Name, Port: uint16(p.ContainerPort)})
		}
	}
	return w
}
