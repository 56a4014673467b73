package cli

import (
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/up"
)

func proxyConfigCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "proxy-config", Aliases: []string{"pc"},
		Short: "Show the configuration a proxy runs",
		Example: `  tulle proxy-config routes orchestrator
  tulle proxy-config clusters worker-v1-0 --fqdn orchestrator -o json
  tulle proxy-config endpoints orchestrator --status unhealthy
  tulle proxy-config secret web`,
		Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(listenersCommand(), proxyRoutesCommand(), clustersCommand(), endpointsCommand(), secretCommand())
	return c
}

func listenersCommand() *cobra.Command {
	var f listenerFilter
	c := &cobra.Command{
		Use: "listeners WORKLOAD", Aliases: []string{"listener", "l"}, Short: "Where the proxy accepts connections",
		Example: `  tulle proxy-config listeners orchestrator
  tulle proxy-config listeners orchestrator --port 15006
  tulle proxy-config listeners orchestrator --address 0.0.0.0 --type HTTP -o json`,
	}
	f.flags(c)
	return proxyConfig(c, "config_dump", func(s *ir.Snapshot) []*ir.Listener { return kept(s.Listeners, f.keeps) }, listenerTable)
}

func proxyRoutesCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "routes WORKLOAD", Aliases: []string{"route", "r"}, Short: "How requests find a cluster",
		Example: `  tulle proxy-config routes orchestrator
  tulle proxy-config routes orchestrator --name 8000 -o json`,
	}
	c.Flags().StringVar(&name, "name", "", "only the route table of this name")
	return proxyConfig(c, "config_dump", func(s *ir.Snapshot) []*ir.RouteTable {
		return kept(s.Routes, func(t *ir.RouteTable) bool { return name == "" || t.Name == name })
	}, routeTable)
}

func clustersCommand() *cobra.Command {
	var f clusterFilter
	c := &cobra.Command{
		Use: "clusters WORKLOAD", Aliases: []string{"cluster", "c"}, Short: "Upstream services and their limits",
		Example: `  tulle proxy-config clusters orchestrator
  tulle proxy-config clusters orchestrator --fqdn worker.researchflow.svc.cluster.local --subset v2
  tulle proxy-config clusters orchestrator --direction inbound --port 8000 -o json`,
	}
	f.flags(c)
	return proxyConfig(c, "config_dump", func(s *ir.Snapshot) []*ir.Cluster { return kept(s.Clusters, f.keeps) }, clusterTable)
}

func endpointsCommand() *cobra.Command {
	var f endpointFilter
	c := &cobra.Command{
		Use: "endpoints WORKLOAD", Aliases: []string{"endpoint", "ep"}, Short: "Instances behind each cluster, as this proxy sees them",
		Example: `  tulle proxy-config endpoints orchestrator
  tulle proxy-config endpoints orchestrator --cluster 'outbound|8000||worker.researchflow.svc.cluster.local'
  tulle proxy-config endpoints orchestrator --status unhealthy --port 8000 -o json`,
	}
	f.flags(c)
	return proxyConfig(c, "clusters", func(list *[]agent.ClusterStatus) []agent.ClusterStatus { return f.within(*list) }, endpointTable)
}

// proxyConfig makes c read a page of a workload's sidecar and print the rows
// that its filters leave. When they leave none, standard error says so, and
// the answer is a good one: as with kubectl get.
func proxyConfig[Page, Row any](c *cobra.Command, page string, rows func(*Page) []Row, table func(io.Writer, []Row)) *cobra.Command {
	var which choice
	what := c.Name()
	c.Args, c.ValidArgsFunction = usage(cobra.ExactArgs(1)), completeWorkloads
	output := outputFlag(c)
	which.flags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var p Page
		if err := fromSidecar(c, &which, args[0], page, &p); err != nil {
			return err
		}
		list := rows(&p)
		if len(list) == 0 {
			fmt.Fprintf(c.ErrOrStderr(), "No %s found in %s.\n", what, args[0])
		}
		return output(list, func(w io.Writer) error {
			if len(list) == 0 {
				return nil
			}
			t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
			table(t, list)
			return t.Flush()
		})
	}
	return c
}

// fromSidecar reads a page of a workload's sidecar.
func fromSidecar(c *cobra.Command, which *choice, workload, page string, out any) error {
	client, err := up.Connect()
	if err != nil {
		return err
	}
	name, err := which.one(c.Context(), client, workload)
	if err != nil {
		return err
	}
	return client.Get(c.Context(), "/v1/sidecars/"+url.PathEscape(name)+"/"+page, out)
}

func secretCommand() *cobra.Command {
	var which choice
	c := &cobra.Command{Use: "secret WORKLOAD", Aliases: []string{"secrets", "s"}, Short: "The proxy's certificate, its application's and the trust bundle (never keys)", Args: usage(cobra.ExactArgs(1)),
		ValidArgsFunction: completeWorkloads, Example: "  tulle proxy-config secret orchestrator\n  tulle proxy-config secret deploy/worker-v1 -o json"}
	output := outputFlag(c)
	which.flags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var info agent.Certificates
		if err := fromSidecar(c, &which, args[0], "certs", &info); err != nil {
			return err
		}
		return output(info, func(w io.Writer) error { return writeSecret(w, &info) })
	}
	return c
}
