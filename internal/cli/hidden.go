package cli

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/opa"
	"github.com/tulle-mesh/tulle/internal/rego"
)

// Commands that tulle runs itself. They are hidden, not secret.

func proxyCommand() *cobra.Command {
	return &cobra.Command{Use: "proxy", Hidden: true, Short: "Run one workload's sidecar", Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return agent.Main(func(log *slog.Logger) agent.Rego { return rego.NewHost(os.Stdout, log) })
		}}
}

func standInCommand() *cobra.Command {
	return &cobra.Command{Use: "standin NAME=PORT...", Hidden: true, Short: "Run the stand-in for a workload", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return machine.StandIn(args) }}
}

func opaCommand() *cobra.Command {
	return &cobra.Command{Use: "opa run [ARG...]", Hidden: true, Short: "Run the embedded OPA with arguments of openpolicyagent/opa", DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			o, err := opa.ParseArgs(args)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			o.DecisionLog = os.Stdout
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return opa.Run(c.Context(), o)
		}}
}
