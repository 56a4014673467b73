// Package cli is the command line, one file per command. Verbs and flags
// follow kubectl and istioctl.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/up"
)

// Exit codes: 0 it worked; 1 it did not; 2 the command line is wrong; 3 the
// question was answered, and the answer is no (validate, mtls verify,
// explain). exec passes on the command's own.
const (
	exitFailed = 1
	exitUsage  = 2
	exitNo     = 3
)

// exitError carries an exit code; its text may be empty, when everything has
// been said.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// Main runs the command line and returns the exit code.
func Main(args []string) int {
	if len(args) > 1 {
		switch args[1] { // our own re-executions: no flags, no help
		case machine.InitArg:
			return machine.Init()
		case machine.RoomArg:
			return up.Room()
		case machine.ShimArg:
			return machine.Shim()
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.text != "" {
			fmt.Fprintln(os.Stderr, "tulle:", exit.text)
		}
		return exit.code
	}
	fmt.Fprintln(os.Stderr, "tulle:", err)
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tulle",
		Short: "A service mesh in one binary that runs Istio's API",
		Long: `Tulle runs Istio's configuration on one Linux machine, without Kubernetes,
root or containers, and tells why a request is routed, refused or slow.`,
		Example: `  tulle up examples/researchflow
  tulle proxy-status
  tulle explain --from web --to worker:8000 --path /api/jobs`,
		SilenceErrors: true, SilenceUsage: true,
		Args:    noSuchCommand,
		Version: known().Version,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Sprintf("%v\nSee: %s --help", err, c.CommandPath())}
	})
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "see", Title: "See and explain:"}, &cobra.Group{ID: "check", Title: "Check:"})
	group := func(id string, list ...*cobra.Command) {
		for _, c := range list {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("run", upCommand(), downCommand(), execCommand(), logsCommand())
	group("see", proxyStatusCommand(), proxyConfigCommand(), getCommand(), describeCommand(), routesCommand(), explainCommand(), whyCommand())
	group("check", validateCommand(), mtlsCommand(), caCommand())
	root.AddCommand(versionCommand(), proxyCommand(), opaCommand(), standInCommand())
	return root
}

// outputFlag adds -o; the returned func prints a value as asked, or calls text.
func outputFlag(c *cobra.Command) func(v any, text func(w io.Writer) error) error {
	var format string
	c.Flags().StringVarP(&format, "output", "o", "", "output format: json or yaml (default: text)")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return func(v any, text func(w io.Writer) error) error {
		w := c.OutOrStdout()
		switch format {
		case "", "text", "wide":
			return text(w)
		case "json":
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(v)
		case "yaml":
			b, err := yaml.Marshal(v)
			if err != nil {
				return err
			}
			_, err = w.Write(b)
			return err
		}
		return &exitError{exitUsage, fmt.Sprintf("output format %q is not known: json or yaml", format)}
	}
}

// noSuchCommand is what a command that is only a family of others says to
// anything that is none of them.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("there is no command %q", c.CommandPath()+" "+args[0])
	c.SuggestionsMinimumDistance = 2 // Levenshtein's; cobra's default is none
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		text += " (did you mean " + strings.Join(near, " or ") + "?)"
	}
	return &exitError{exitUsage, text + "\nSee: " + c.CommandPath() + " --help"}
}

// usage makes cobra's argument errors say the usage.
func usage(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := args(c, a); err != nil {
			return &exitError{exitUsage, fmt.Sprintf("%v\nUsage: %s", err, c.UseLine())}
		}
		return nil
	}
}
