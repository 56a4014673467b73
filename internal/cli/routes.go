package cli

import (
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/up"
)

func routesCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "routes SERVICE", Short: "Show every route that leads to a service", Args: usage(cobra.ExactArgs(1)),
		Example: `  tulle routes orchestrator
  tulle routes worker -o json`,
	}
	output := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := up.Connect()
		if err != nil {
			return err
		}
		var rows []control.RouteRow
		if err := client.Get(c.Context(), "/v1/routes/"+url.PathEscape(args[0]), &rows); err != nil {
			return err
		}
		return output(rows, func(w io.Writer) error {
			if len(rows) == 0 {
				_, err := fmt.Fprintf(w, "no HTTP route leads to %s. For a TCP port: tulle explain --from WORKLOAD --to %s:PORT\n", args[0], args[0])
				return err
			}
			t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
			fmt.Fprintln(t, "PROXY\tHOST\tROUTE\tMATCH\tTO\tTIMEOUT\tRETRIES\tFROM")
			for _, r := range rows {
				to, timeout, retries := routeAction(r.Route)
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Proxy, r.Host, r.Route.Name, routeMatch(&r.Route.Match), to, timeout, retries, place(r.Route.Match.Origin, r.Route.Origin))
			}
			return t.Flush()
		})
	}
	return c
}
