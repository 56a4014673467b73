// Package istio lets Istio itself judge Tulle: the same YAML goes into Istio's
// own control plane and into Tulle's compiler, both results are Envoy
// configuration, and one projector makes both comparable. It is a module of
// its own, so that none of Istio's dependencies reaches the product.
package istio

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// world is one configuration to be judged: what a cluster would hold, read by
// Tulle's own reader, and the running instances that both sides are told of.
type world struct {
	name     string
	files    []resource.File
	set      *resource.Set
	problems []resource.Problem
	nodes    []string // owners of the workloads whose proxies are compared
}

// readWorld reads the base configuration and the case above it. The first
// lines of a case may say "# nodes: client ingressgateway"; the default is
// every proxy of the base.
func readWorld(name, base, path string) (*world, error) {
	var files []resource.File
	for _, p := range []string{base, path} {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		files = append(files, resource.File{Name: p, Data: data})
	}
	return newWorld(name, files), nil
}

func newWorld(name string, files []resource.File) *world {
	w := &world{name: name, files: files}
	w.set, w.problems = resource.Parse(files)
	w.set.Workloads = instances(w.set)
	if line, ok := directive(files[len(files)-1].Data, "nodes"); ok {
		w.nodes = strings.Fields(line)
		return w
	}
	for _, d := range w.set.Deployments {
		w.nodes = append(w.nodes, d.Name)
	}
	return w
}

// directive finds a leading comment "# name: value".
func directive(data []byte, name string) (string, bool) {
	for line := range strings.SplitSeq(string(data), "\n") {
		if !strings.HasPrefix(line, "#") {
			break
		}
		if v, ok := strings.CutPrefix(line, "# "+name+":"); ok {
			return v, true
		}
	}
	return "", false
}

// instances runs one replica of every Deployment at an address of its own.
// The annotation sidecar.istio.io/inject "false" keeps it out of the mesh, the
// label "istio" makes it a gateway, and "istio-locality" places it.
func instances(set *resource.Set) []*resource.Workload {
	var out []*resource.Workload
	for i, d := range set.Deployments {
		out = append(out, instance(&d.Meta, i+1, d.Spec.Spec.Template.ObjectMeta, &d.Spec.Spec.Template.Spec))
	}
	return out
}

func instance(owner *resource.Meta, n int, m metav1.ObjectMeta, spec *corev1.PodSpec) *resource.Workload {
	w := &resource.Workload{
		Name: owner.Name + "-0", Namespace: owner.Namespace, Owner: owner.Name, OwnerKind: "Deployment",
		Labels: maps.Clone(m.Labels), Annotations: m.Annotations, ServiceAccount: spec.ServiceAccountName,
		Address: netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), ClusterID: "Kubernetes", Ready: true,
		Locality: strings.ReplaceAll(m.Labels["istio-locality"], ".", "/"),
		Sidecar:  m.Annotations["sidecar.istio.io/inject"] != "false", Gateway: m.Labels["istio"] != "",
	}
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	if w.ServiceAccount == "" {
		w.ServiceAccount = "default"
	}
	if w.Sidecar {
		w.Labels["security.istio.io/tlsMode"] = "istio" // the injector's label
	}
	for _, c := range spec.Containers {
		for _, p := range c.Ports {
			w.Ports = append(w.Ports, resource.WorkloadPort{Name: p.Name, Port: uint16(p.ContainerPort)})
		}
	}
	return w
}

// workload finds the instance that a node's name means.
func (w *world) workload(owner string) (*resource.Workload, error) {
	for _, i := range w.set.Workloads {
		if i.Owner == owner {
			return i, nil
		}
	}
	return nil, fmt.Errorf("%s: no Deployment %q", w.name, owner)
}
