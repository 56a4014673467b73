package cli

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/up"
)

func logsCommand() *cobra.Command {
	var (
		which choice
		ask   logQuery
	)
	c := &cobra.Command{
		Use:   "logs WORKLOAD [-c istio-proxy] [-f]",
		Short: "Show what a workload or its sidecar writes",
		Long: `Logs shows a workload's output, or with -c istio-proxy its sidecar's: the access
log in Istio's format. The name of a Deployment, a component or a selector
shows all its replicas. With --since and --tail it shows the lines that both
leave. -f ends when the workload does.`,
		Example: `  tulle logs worker-v1-0
  tulle logs orchestrator -c istio-proxy -f
  tulle logs worker --since 5m --timestamps
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
			if err := ask.check(c); err != nil {
				return err
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
				show := func(ctx context.Context) error { return client.Copy(ctx, ask.path(w), c.OutOrStdout()) }
				if !ask.follow {
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
	ask.flags(c)
	return c
}

// logQuery is which lines of a log are asked for.
type logQuery struct {
	container          string
	follow, timestamps bool
	tail               int
	since              time.Duration
}

func (q *logQuery) flags(c *cobra.Command) {
	c.Flags().StringVarP(&q.container, "container", "c", machine.AppContainer, "app or istio-proxy")
	c.Flags().BoolVarP(&q.follow, "follow", "f", false, "go on showing what comes")
	c.Flags().IntVar(&q.tail, "tail", -1, "only the last lines of each replica; -1: all")
	c.Flags().DurationVar(&q.since, "since", 0, "only lines that are not older, for example 30s, 5m or 1h (default: all)")
	c.Flags().BoolVar(&q.timestamps, "timestamps", false, "show when each line came (RFC 3339, UTC)")
}

func (q *logQuery) check(c *cobra.Command) error {
	switch {
	case q.tail < -1:
		return &exitError{exitUsage, fmt.Sprintf("--tail %d: want a number of lines, or -1 for all", q.tail)}
	case c.Flags().Changed("since") && q.since <= 0:
		return &exitError{exitUsage, fmt.Sprintf("--since %s: want a duration above 0, for example 5m", q.since)}
	}
	return nil
}

// path of the API that answers for one workload.
func (q *logQuery) path(w up.WorkloadStatus) string {
	v := url.Values{"container": {q.container}, "follow": {fmt.Sprint(q.follow)}, "timestamps": {fmt.Sprint(q.timestamps)}, "tail": {fmt.Sprint(q.tail)}}
	if q.since > 0 {
		v.Set("since", q.since.String())
	}
	return "/v1/logs/" + url.PathEscape(w.Name+"."+w.Namespace) + "?" + v.Encode()
}
