package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/up"
)

func proxyStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "proxy-status", Aliases: []string{"ps"},
		Short: "Show whether each proxy has the newest configuration",
		Example: `  tulle proxy-status
  tulle proxy-status -o json`,
		Args: usage(cobra.NoArgs),
	}
	output := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := up.Connect()
		if err != nil {
			return err
		}
		var rows []control.ProxyRow
		if err := client.Get(c.Context(), "/v1/proxies", &rows); err != nil {
			return err
		}
		return output(rows, func(w io.Writer) error {
			t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
			fmt.Fprintln(t, "NAME\tCDS\tLDS\tEDS\tRDS\tVERSION\tPROBLEM")
			for _, r := range rows {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.CDS, r.LDS, r.EDS, r.RDS, r.Version, r.Problem)
			}
			return t.Flush()
		})
	}
	return c
}
