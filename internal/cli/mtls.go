package cli

import (
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/up"
)

func mtlsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "mtls", Short: "Check mutual TLS",
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var from, to string
	v := &cobra.Command{
		Use: "verify", Short: "Prove by handshake and plaintext probe that mutual TLS is in force",
		Long: `Verify makes a real handshake with every port of the target workloads, as one of
the callers, and sends a plaintext request to it. It shows the evidence and the
policy that asks for it. Exit code 3: something is not as the policy says.`,
		Example: `  tulle mtls verify
  tulle mtls verify --from orchestrator --to worker -o json`,
		Args: usage(cobra.NoArgs),
	}
	output := outputFlag(v)
	v.Flags().StringVar(&from, "from", "", "workload that calls (default: any)")
	v.Flags().StringVar(&to, "to", "", "workload that is called (default: every one)")
	v.RunE = func(c *cobra.Command, _ []string) error {
		client, err := up.Connect()
		if err != nil {
			return err
		}
		var checks []up.MTLSCheck
		if err := client.Get(c.Context(), "/v1/mtls?"+url.Values{"from": {from}, "to": {to}}.Encode(), &checks); err != nil {
			return err
		}
		if err := output(checks, func(w io.Writer) error { return writeMTLS(w, checks) }); err != nil {
			return err
		}
		for _, k := range checks {
			if !k.OK {
				return &exitError{exitNo, ""}
			}
		}
		return nil
	}
	c.AddCommand(v)
	return c
}

func writeMTLS(w io.Writer, checks []up.MTLSCheck) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "FROM\tTO\tADDRESS\tMODE\tHANDSHAKE\tPEER\tSERIAL\tEXPIRES\tPLAINTEXT\tOK\tPOLICY")
	for _, k := range checks {
		handshake, peer, serial, expires := "failed", "-", "-", "-"
		if h := k.Handshake; h != nil {
			handshake, peer, serial, expires = h.Version+" "+h.Cipher, h.Peer, h.PeerSerial, h.NotAfter.UTC().Format(time.RFC3339)
			if len(serial) > 12 {
				serial = serial[:12] + "…"
			}
		}
		ok := "yes"
		if !k.OK {
			ok = "NO"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.From, k.To, k.Address, k.Mode, handshake, peer, serial, expires, k.Plaintext, ok, k.Policy)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, k := range checks {
		if k.Refused != "" {
			fmt.Fprintf(w, "%s -> %s: %s\n", k.From, k.Address, k.Refused)
		}
	}
	return nil
}
