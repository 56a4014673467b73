package cli

import (
	"cmp"
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
		Use: "mtls", Short: "Check mutual TLS", Args: noSuchCommand,
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
	c.AddCommand(v, edgesCommand())
	return c
}

func edgesCommand() *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use: "edges", Short: "Show who has called whom and what the connections proved",
		Long: `Edges lists the callers of every workload since its proxy started, with the
proof of the newest connection: both identities, TLS version and cipher, serial
numbers, and the PeerAuthentication that the port is under. A caller without
mutual TLS proved nothing: it is named by the workload that has its address.
Exit code 3: somebody called in plaintext.`,
		Example: `  tulle mtls edges
  tulle mtls edges --to worker -o json`,
		Args: usage(cobra.NoArgs),
	}
	output := outputFlag(c)
	c.Flags().StringVar(&from, "from", "", "workload that calls (default: any)")
	c.Flags().StringVar(&to, "to", "", "workload that is called (default: every one)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := up.Connect()
		if err != nil {
			return err
		}
		var edges []up.Edge
		if err := client.Get(c.Context(), "/v1/edges?"+url.Values{"from": {from}, "to": {to}}.Encode(), &edges); err != nil {
			return err
		}
		if err := output(edges, func(w io.Writer) error { return writeEdges(w, edges) }); err != nil {
			return err
		}
		for _, e := range edges {
			if e.Mode == "plaintext" {
				return &exitError{exitNo, ""}
			}
		}
		return nil
	}
	return c
}

func writeEdges(w io.Writer, edges []up.Edge) error {
	if len(edges) == 0 {
		_, err := fmt.Fprintln(w, "nobody has called")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "FROM\tTO\tADDRESS\tSNI\tPROOF\tPEER\tSERIAL\tOPEN\tTOTAL\tLAST\tPOLICY")
	for _, e := range edges {
		proof := e.Mode
		if e.TLSVersion != "" {
			proof += " " + e.TLSVersion + " " + e.Cipher
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", e.From, e.To, e.Address, cmp.Or(e.SNI, "-"), proof, cmp.Or(e.Peer, "-"), cmp.Or(shortSerial(e.PeerSerial), "-"),
			e.Open, e.Connections, e.Last.Local().Format(time.TimeOnly), e.Policy)
	}
	return t.Flush()
}

// shortSerial is enough of a serial number to tell two apart.
func shortSerial(s string) string {
	if len(s) > 12 {
		return s[:12] + "…"
	}
	return s
}

func writeMTLS(w io.Writer, checks []up.MTLSCheck) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "FROM\tTO\tADDRESS\tMODE\tHANDSHAKE\tPEER\tSERIAL\tEXPIRES\tPLAINTEXT\tOK\tPOLICY")
	for _, k := range checks {
		handshake, peer, serial, expires := "failed", "-", "-", "-"
		if h := k.Handshake; h != nil {
			handshake, peer, serial, expires = h.Version+" "+h.Cipher, h.Peer, shortSerial(h.PeerSerial), h.NotAfter.UTC().Format(time.RFC3339)
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
