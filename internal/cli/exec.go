package cli

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/up"
)

func execCommand() *cobra.Command {
	var (
		which     choice
		container string
		ignored   bool
	)
	c := &cobra.Command{
		Use:   "exec WORKLOAD [-c istio-proxy] -- COMMAND [ARG...]",
		Short: "Run a command in a workload's place",
		Long: `Exec runs a program of this machine with a workload's network, host name, DNS
and environment: its connections go through the sidecar like the workload's
own. With -c istio-proxy they go past it, as the sidecar's own do.`,
		Example: `  tulle exec web -- curl -s http://worker:8000/healthz
  tulle exec orchestrator -c istio-proxy -- openssl s_client -connect worker:8000
  tulle exec orchestrator -c istio-proxy -- curl -s localhost:15000/clusters`,
		Args:              usage(cobra.MinimumNArgs(1)),
		ValidArgsFunction: completeWorkloads,
		RunE: func(c *cobra.Command, args []string) error {
			at := c.ArgsLenAtDash()
			name, command := "", args
			switch {
			case at == 1 || at < 0:
				name, command = args[0], args[1:]
			case at > 1:
				return &exitError{exitUsage, "give one workload before --"}
			}
			if len(command) == 0 || name == "" && which.selector == "" {
				return &exitError{exitUsage, "give a workload and a command: tulle exec web -- curl http://worker:8000/"}
			}
			if container != machine.AppContainer && container != machine.ProxyContainer {
				return &exitError{exitUsage, fmt.Sprintf("there is no container %q: -c %s or %s", container, machine.AppContainer, machine.ProxyContainer)}
			}
			client, err := up.Connect()
			if err != nil {
				return err
			}
			if name, err = which.one(c.Context(), client, name); err != nil {
				return err
			}
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
			code, err := client.Exec(name, container, command, signals)
			if err == nil && code != 0 {
				err = &exitError{code, ""}
			}
			return err
		},
	}
	which.flags(c)
	c.Flags().StringVarP(&container, "container", "c", machine.AppContainer, "app or istio-proxy")
	c.Flags().BoolVarP(&ignored, "stdin", "i", false, "accepted for kubectl's sake: standard input is always connected")
	c.Flags().BoolVarP(&ignored, "tty", "t", false, "accepted for kubectl's sake: the terminal is always connected")
	return c
}
