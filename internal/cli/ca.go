package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/up"
)

// caStatus is what /v1/ca answers.
type caStatus struct {
	Phase    string    `json:"phase"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"notAfter"`
	Roots    []string  `json:"roots"`
	OldUntil time.Time `json:"oldUntil,omitzero"`
}

func caCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ca",
		Short: "Show the mesh's certificate authority, change its root, end the old one",
		Example: `  tulle ca
  tulle ca rotate
  tulle ca retire`,
		Args: usage(cobra.NoArgs),
	}
	output := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := up.Connect()
		if err != nil {
			return err
		}
		var s caStatus
		if err := client.Get(c.Context(), "/v1/ca", &s); err != nil {
			return err
		}
		return output(s, func(w io.Writer) error { return writeCA(w, s) })
	}
	c.AddCommand(rotateCommand(), retireCommand())
	return c
}

func rotateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Short: "Give the mesh a new root, without a dropped connection",
		Long: `Rotate makes a new root. It is trusted everywhere before anything is signed with
it; then every workload gets a new certificate; the old root is trusted until the
last certificate of it has ended (24 hours, unless SECRET_TTL says otherwise), or
until "tulle ca retire". See how far it is with "tulle ca". The root of a
plugged-in authority (--ca) changes when its files do.`,
		Example: `  tulle ca rotate`,
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := up.Connect()
			if err != nil {
				return err
			}
			var s caStatus
			if err := client.Post(c.Context(), "/v1/ca/rotate", nil, &s); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "the root changes; see how far it is with: tulle ca")
			return err
		},
	}
}

func writeCA(w io.Writer, s caStatus) error {
	fmt.Fprintf(w, "phase   %s", s.Phase)
	if !s.OldUntil.IsZero() {
		fmt.Fprintf(w, ": the old root is trusted until %s", s.OldUntil.Local().Format(time.DateTime))
	}
	fmt.Fprintf(w, "\nsigns   %s, until %s\n", s.Issuer, s.NotAfter.Local().Format(time.DateTime))
	for _, r := range s.Roots {
		if _, err := fmt.Fprintf(w, "trusts  %s\n", r); err != nil {
			return err
		}
	}
	return nil
}
