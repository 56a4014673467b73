package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/up"
)

func validateCommand() *cobra.Command {
	var paths []string
	c := &cobra.Command{
		Use: "validate -f PATH", Short: "Check manifests without running them",
		Long: `Validate reads files or folders as "tulle up" would and names every fault with
its file, line and field. References between objects are checked where the
workloads are among the manifests. Exit code 3: there are errors.`,
		Example: `  tulle validate -f infrastructure/kubernetes/base/istio
  tulle validate -f examples/researchflow -o json`,
		Args: usage(cobra.ArbitraryArgs),
	}
	output := outputFlag(c)
	c.Flags().StringArrayVarP(&paths, "filename", "f", nil, "file or folder (may be repeated)")
	c.RunE = func(c *cobra.Command, args []string) error {
		paths = append(paths, args...)
		if len(paths) == 0 {
			return &exitError{exitUsage, "give a file or folder: tulle validate -f PATH"}
		}
		problems := append([]resource.Problem{}, up.Check(paths)...) // a list in JSON, also when it is empty
		bad := false
		for _, p := range problems {
			bad = bad || p.Severity == resource.Error
		}
		err := output(problems, func(w io.Writer) error {
			for _, p := range problems {
				fmt.Fprintf(w, "%s: %s\n", p.Severity, p)
			}
			if !bad {
				fmt.Fprintln(w, "valid")
			}
			return nil
		})
		if err == nil && bad {
			err = &exitError{exitNo, ""}
		}
		return err
	}
	return c
}
