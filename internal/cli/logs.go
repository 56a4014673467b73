package cli

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/up"
)

func logsCommand() *cobra.Command {
	var (
		which     choice
		container string
		follow    bool
		tail      int
	)
	c := &cobra.Command{
		Use:   "logs WORKLOAD [-c istio-proxy] [-f]",
		Short: "Show what a workload or its sidecar writes",
		Long: `Logs shows a workload's output, or with -c istio-proxy its sidecar's: the access
log in Istio's format. The name of a Deployment, a component or a selector
shows all its replicas.`,
		Example: `  tulle logs worker-v1-0
  tulle logs orchestrator -c istio-proxy -f
  tulle logs -n researchflow -l app.kubernetes.io/component=orchestrator -c istio-proxy --tail=100`,
		Args:              usage(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeWorkloads,
		RunE: func(c *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			} else if which.selector == "" {
				return &exitError{exitUsage, "give a workload or a selector: tulle logs worker -c istio-proxy"}
			}
			client, err := up.Connect()
			if err != nil {
				return err
			}
			list, err := which.all(c.Context(), client, name)
			if err != nil {
				return err
			}
			g, ctx := errgroup.WithContext(c.Context())
			for _, w := range list {
				path := fmt.Sprintf("/v1/logs/%s?container=%s&follow=%t&tail=%d", url.PathEscape(w.Name+"."+w.Namespace), url.QueryEscape(container), follow, tail)
				show := func(ctx context.Context) error { return client.Copy(ctx, path, c.OutOrStdout()) }
				if !follow {
					if err := show(ctx); err != nil {
						return err
					}
					continue
				}
				g.Go(func() error { return show(ctx) })
			}
			return g.Wait()
		},
	}
	which.flags(c)
	c.Flags().StringVarP(&container, "container", "c", machine.AppContainer, "app or istio-proxy")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on showing what comes")
	c.Flags().IntVar(&tail, "tail", -1, "only the last lines (default: all)")
	return c
}
