package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/up"
)

func retireCommand() *cobra.Command {
	var force, dryRun bool
	c := &cobra.Command{
		Use: "retire", Short: "Stop trusting the old root before its certificates have ended",
		Long: `Retire ends the overlap after a change of root: it takes the old root out of every
sidecar's trust bundle, and returns when they run without it. From the next
handshake on whoever shows a certificate of it is refused; connections that are
open stay.

First it asks every sidecar which certificates it and its application hold. While
one of them is of the old root it lists them and changes nothing (exit code 3):
they are renewed within seconds after the new root begins to sign. With --force
they are cut off until they are. A sidecar that cannot be asked counts as one that
depends. What an application has read from its Workload API once and keeps
without following the changes, no sidecar knows of.

Without this command the old root goes when the last certificate of it has ended.`,
		Example: `  tulle ca retire --dry-run
  tulle ca retire
  tulle ca retire --force -o json   # the old key was stolen`,
		Args: usage(cobra.NoArgs),
	}
	output := outputFlag(c)
	c.Flags().BoolVar(&force, "force", false, "retire it although certificates of it are in use")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what depends on the old root")
	c.MarkFlagsMutuallyExclusive("force", "dry-run")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := up.Connect()
		if err != nil {
			return err
		}
		var r up.Retirement
		if dryRun {
			err = client.Get(c.Context(), "/v1/ca/retire", &r)
		} else {
			err = client.Post(c.Context(), fmt.Sprintf("/v1/ca/retire?force=%t", force), nil, &r)
		}
		if err != nil {
			return err
		}
		err = output(r, func(w io.Writer) error {
			return errors.Join(writeDependents(w, r.Dependents), writeRetirement(w, r, dryRun))
		})
		if err == nil && !r.Retired && len(r.Dependents) > 0 {
			return &exitError{exitNo, ""}
		}
		return err
	}
	return c
}

func writeDependents(w io.Writer, list []up.Dependent) error {
	if len(list) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "WORKLOAD\tHELD BY\tIDENTITY\tSERIAL\tUNTIL")
	for _, d := range list {
		if d.Unknown != "" {
			fmt.Fprintf(t, "%s\t%s\tcannot be asked: %s\t-\t-\n", d.Workload, d.User, d.Unknown)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", d.Workload, d.User, d.Identity, shortSerial(d.Serial), d.NotAfter.Local().Format(time.DateTime))
	}
	return t.Flush()
}

func writeRetirement(w io.Writer, r up.Retirement, dryRun bool) error {
	roots := cmp.Or(strings.Join(r.Roots, ", "), "nothing: the new issuer is under the same root")
	until := r.Until.Local().Format(time.DateTime)
	var err error
	switch {
	case r.Retired:
		_, err = fmt.Fprintf(w, "retired   %s\n", roots)
	case len(r.Dependents) > 0:
		_, err = fmt.Fprintf(w, "stays     %s\nThese certificates of it are in use. Sidecars renew theirs within seconds; the last one ends at %s. End them now with: tulle ca retire --force\n", roots, until)
	case dryRun:
		_, err = fmt.Fprintf(w, "stays     %s\nNo sidecar depends on it. It is trusted until %s, or until: tulle ca retire\n", roots, until)
	}
	return err
}
