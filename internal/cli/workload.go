package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/up"
)

// choice says which workload a command is about: by name, or by labels.
type choice struct {
	namespace string
	selector  string
}

func (s *choice) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.namespace, "namespace", "n", "", "namespace of the workload (default: any)")
	c.Flags().StringVarP(&s.selector, "selector", "l", "", "choose by labels: key=value,...")
}

// all returns the workloads that name and labels choose; an empty name with a
// selector takes every one that it selects.
func (s *choice) all(ctx context.Context, client *up.Client, name string) ([]up.WorkloadStatus, error) {
	var list []up.WorkloadStatus
	if err := client.Get(ctx, "/v1/workloads", &list); err != nil {
		return nil, err
	}
	if kind, rest, ok := strings.Cut(name, "/"); ok {
		switch kind {
		case "pod", "pods", "po", "deploy", "deployment", "deployments", "sts", "statefulset", "job":
			name = rest
		}
	}
	var out []up.WorkloadStatus
	for _, w := range list {
		if (s.namespace == "" || w.Namespace == s.namespace) && selected(s.selector, w.Labels) {
			out = append(out, w)
		}
	}
	if name != "" {
		out = resource.Named(out, name, up.WorkloadStatus.Naming)
	}
	if len(out) > 0 {
		return out, nil
	}
	var names []string
	for _, w := range list {
		if s.namespace == "" || w.Namespace == s.namespace {
			names = append(names, w.Name)
		}
	}
	asked, in := strings.TrimSpace(name+" "+s.selector), ""
	if s.namespace != "" {
		in = " in namespace " + s.namespace
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there is no workload%s", in)
	}
	return nil, fmt.Errorf("no workload %q%s; there are: %s", asked, in, strings.Join(names, ", "))
}

func selected(selector string, labels map[string]string) bool {
	for _, part := range strings.Split(selector, ",") {
		if part == "" {
			continue
		}
		k, v, _ := strings.Cut(part, "=")
		if labels[k] != strings.TrimPrefix(v, "=") {
			return false
		}
	}
	return true
}

// one is the first that all finds, as NAME.NAMESPACE.
func (s *choice) one(ctx context.Context, client *up.Client, name string) (string, error) {
	list, err := s.all(ctx, client, name)
	if err != nil {
		return "", err
	}
	return list[0].Name + "." + list[0].Namespace, nil
}

// completeWorkloads offers the names of the running mesh.
func completeWorkloads(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := up.Connect()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []up.WorkloadStatus
	if client.Get(c.Context(), "/v1/workloads", &list) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, w := range list {
		out = append(out, w.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
