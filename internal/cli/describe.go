package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/up"
)

// objects of a kind that the running mesh has, by namespace and name.
func objects(c *cobra.Command, kind, namespace, name string) ([]control.Resource, error) {
	client, err := up.Connect()
	if err != nil {
		return nil, err
	}
	var all, out []control.Resource
	if err := client.Get(c.Context(), "/v1/resources/"+url.PathEscape(kind), &all); err != nil {
		return nil, err
	}
	var names []string
	for _, r := range all {
		names = append(names, r.Namespace+"/"+r.Name)
		if (namespace == "" || r.Namespace == namespace) && (name == "" || r.Name == name) {
			out = append(out, r)
		}
	}
	if len(out) == 0 && name != "" {
		return nil, fmt.Errorf("no %s %q; there are: %s", kind, name, strings.Join(names, ", "))
	}
	return out, nil
}

// kindAndName takes "vs worker" or "vs/worker".
func kindAndName(args []string) (kind, name string) {
	kind, name, _ = strings.Cut(args[0], "/")
	if len(args) > 1 {
		name = args[1]
	}
	return kind, name
}

func completeKinds(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return control.KindNames(), cobra.ShellCompDirectiveNoFileComp
}

func completeDescribed(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return append(control.KindNames(), "service", "svc", "pod", "po"), cobra.ShellCompDirectiveNoFileComp
}

func getCommand() *cobra.Command {
	var namespace string
	c := &cobra.Command{
		Use: "get KIND [NAME]", Short: "List configuration objects in force", Args: usage(cobra.RangeArgs(1, 2)), ValidArgsFunction: completeKinds,
		Example: `  tulle get virtualservices -n researchflow
  tulle get peerauthentication default -n researchflow -o yaml`,
	}
	output := outputFlag(c)
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace (default: all)")
	all := c.Flags().BoolP("all-namespaces", "A", false, "every namespace, whatever -n says (the default without -n)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *all {
			namespace = ""
		}
		kind, name := kindAndName(args)
		list, err := objects(c, kind, namespace, name)
		if err != nil {
			return err
		}
		return output(list, func(w io.Writer) error {
			if len(list) == 0 {
				_, err := fmt.Fprintf(w, "no %s is in force\n", kind)
				return err
			}
			t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
			fmt.Fprintln(t, "NAMESPACE\tNAME\tPROBLEMS\tFROM")
			for _, r := range list {
				fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", r.Namespace, r.Name, len(r.Problems), r.Origin.Place())
			}
			return t.Flush()
		})
	}
	return c
}

func describeCommand() *cobra.Command {
	var namespace string
	c := &cobra.Command{
		Use: "describe KIND NAME", Short: "Show an object, where it comes from and what is wrong with it", Args: usage(cobra.RangeArgs(1, 2)), ValidArgsFunction: completeDescribed,
		Long: `Describe shows an object of the configuration, where it comes from and what is
wrong with it. Of a service or a pod it shows everything that concerns it: ports,
endpoints, the mutual TLS mode in force, the VirtualServices, DestinationRules
and policies that apply, each with its line, and their problems. What depends on
the caller is as callers of the service's own namespace find it.`,
		Example: `  tulle describe svc worker
  tulle describe pod/worker-v1-0 -n researchflow -o json
  tulle describe virtualservice orchestrator -n researchflow
  tulle describe destinationrule worker`,
	}
	output := outputFlag(c)
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace (default: any)")
	c.RunE = func(c *cobra.Command, args []string) error {
		kind, name := kindAndName(args)
		switch strings.ToLower(kind) {
		case "service", "services", "svc":
			return pages(c, output, "service", namespace, name, writeService)
		case "pod", "pods", "po":
			return pages(c, output, "pod", namespace, name, writePod)
		}
		list, err := objects(c, kind, namespace, name)
		if err != nil {
			return err
		}
		return output(list, func(w io.Writer) error {
			for i, r := range list {
				if i > 0 {
					fmt.Fprintln(w)
				}
				if err := describe(w, &r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}

// pages reads what the control plane knows of a service or pod and prints it.
func pages[T any](c *cobra.Command, output func(any, func(io.Writer) error) error, kind, namespace, name string, page func(*bytes.Buffer, *T)) error {
	if name == "" {
		return &exitError{exitUsage, fmt.Sprintf("give a name: tulle describe %s worker", kind)}
	}
	client, err := up.Connect()
	if err != nil {
		return err
	}
	var list []T
	if err := client.Get(c.Context(), "/v1/describe/"+kind+"/"+url.PathEscape(name)+"?namespace="+url.QueryEscape(namespace), &list); err != nil {
		return err
	}
	return output(list, func(w io.Writer) error {
		var b bytes.Buffer
		for i := range list {
			if i > 0 {
				fmt.Fprintln(&b)
			}
			page(&b, &list[i])
		}
		_, err := b.WriteTo(w)
		return err
	})
}

func describe(w io.Writer, r *control.Resource) error {
	fmt.Fprintf(w, "Name:       %s\nNamespace:  %s\nKind:       %s\nFrom:       %s\n", r.Name, r.Namespace, r.Kind, firstOf(r.Origin.Place(), "-"))
	var spec any
	if err := json.Unmarshal(r.Spec, &spec); err != nil {
		return err
	}
	b, err := yaml.Marshal(spec)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "Spec:")
	for _, line := range strings.Split(strings.TrimRight(string(b), "\n"), "\n") {
		fmt.Fprintln(w, "  "+line)
	}
	writeProblems(w, r.Problems)
	return nil
}

func writeProblems(w io.Writer, list []resource.Problem) {
	if len(list) == 0 {
		fmt.Fprintln(w, "Problems:   none")
		return
	}
	fmt.Fprintln(w, "Problems:")
	for _, p := range list {
		fmt.Fprintf(w, "  %s: %s\n", p.Severity, p)
	}
}
