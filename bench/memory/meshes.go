package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
)

// researchFlow is ResearchFlow as it runs: an instance for each Deployment and
// StatefulSet, an address for each Service.
func researchFlow(path string) (*resource.Set, error) {
	update := (&source.Files{Paths: []string{path}}).Load()
	for _, p := range update.Problems {
		if p.Severity != resource.Warning {
			return nil, fmt.Errorf("%s: %v", path, p)
		}
	}
	set := *update.Set
	set.Services = nil
	for i, s := range update.Set.Services {
		c := *s
		c.Spec = s.Spec.DeepCopy()
		if c.Spec.Spec.ClusterIP == "" {
			c.Spec.Spec.ClusterIP = address(96, i).String()
		}
		set.Services = append(set.Services, &c)
	}
	add := func(kind string, m resource.Meta, labels map[string]string, account string) {
		if account == "" {
			account = "default"
		}
		set.Workloads = append(set.Workloads, &resource.Workload{Name: m.Name + "-0", Namespace: m.Namespace, Owner: m.Name, OwnerKind: kind,
			Labels: labels, ServiceAccount: account, Address: address(244, len(set.Workloads)), Ready: true, Sidecar: true})
	}
	for _, d := range set.Deployments {
		add("Deployment", d.Meta, d.Spec.Spec.Template.Labels, d.Spec.Spec.Template.Spec.ServiceAccountName)
	}
	for _, d := range set.StatefulSets {
		add("StatefulSet", d.Meta, d.Spec.Spec.Template.Labels, d.Spec.Spec.Template.Spec.ServiceAccountName)
	}
	return &set, nil
}

func address(second byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, second, byte(1 + i/250), byte(1 + i%250)})
}

// largeMesh is n services of 5 endpoints each, and one caller.
func largeMesh(n int) (*resource.Set, error) {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d, namespace: large}\nspec: {clusterIP: %s, selector: {app: s%[1]d}, ports: [{name: http, port: 8080}]}\n", i, address(96, i))
	}
	set, problems := resource.Parse([]resource.File{{Name: "large.yaml", Data: []byte(text.String())}})
	if len(problems) > 0 {
		return nil, fmt.Errorf("%v", problems[0])
	}
	for i := range 5 * n {
		app := fmt.Sprintf("s%d", i/5)
		set.Workloads = append(set.Workloads, workload(fmt.Sprintf("%s-%d", app, i%5), app, address(244, i)))
	}
	set.Workloads = append(set.Workloads, workload("caller-0", "caller", address(245, 0)))
	return set, nil
}

func workload(name, app string, a netip.Addr) *resource.Workload {
	return &resource.Workload{Name: name, Namespace: "large", Owner: app, OwnerKind: "Deployment", ServiceAccount: app,
		Labels: map[string]string{"app": app}, Address: a, Ready: true, Sidecar: true, Ports: []resource.WorkloadPort{{Name: "http", Port: 8080}}}
}
