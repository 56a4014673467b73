package cli

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/up"
)

func whyCommand() *cobra.Command {
	var header bool
	c := &cobra.Command{
		Use:   "why [ID]",
		Short: "Say why a request was refused",
		Long: `Why opens a denial: which policy and rule refused the request, by which line of
YAML, and for every rule that could have let it pass, what was missing. ID is the
x-request-id of the access log, or the value of the response header
x-tulle-decision, which a caller gets that brings the debug credential. Without
ID the newest denials are listed. Proxies keep the newest 256 each. Exit code 3:
there is no such denial.`,
		Example: `  tulle why
  curl -H "$(tulle why --header)" -i http://localhost:8080/api/admin
  tulle why 4WQZ3TRA7EWMVDGUEFQ4L2KUXX
  tulle why 9b2c2b3a-6a5e-4a36-9ff7-5ad2f4f51f4e -o json`,
		Args: usage(cobra.MaximumNArgs(1)),
	}
	output := outputFlag(c)
	c.Flags().BoolVar(&header, "header", false, "print the header with the debug credential and nothing else")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := up.Connect()
		if err != nil {
			return err
		}
		if header {
			credential, err := client.DebugCredential()
			if err == nil {
				_, err = fmt.Fprintf(c.OutOrStdout(), "x-tulle-debug: %s\n", credential)
			}
			return err
		}
		id := strings.Join(args, "")
		var list []up.Denial
		if err := client.Get(c.Context(), "/v1/denials?"+url.Values{"id": {id}}.Encode(), &list); err != nil {
			return err
		}
		if id != "" && len(list) == 0 {
			return &exitError{exitNo, fmt.Sprintf("no proxy remembers a denial %q: only the newest 256 of each workload are kept; \"tulle why\" lists them", id)}
		}
		return output(list, func(w io.Writer) error {
			if len(list) == 0 {
				_, err := fmt.Fprintln(w, "nothing was refused")
				return err
			}
			if id == "" {
				return listDenials(w, list)
			}
			for i := range list {
				if err := writeDenial(w, &list[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}

func listDenials(w io.Writer, list []up.Denial) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "TIME\tWORKLOAD\tREQUEST\tPRINCIPAL\tSTATUS\tDETAILS\tID")
	for i := range list {
		d := &list[i]
		status := "-"
		if d.Status != 0 {
			status = fmt.Sprint(d.Status)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Time.Local().Format(time.TimeOnly), d.Workload, asked(d), cmp.Or(d.Principal, "-"), status, d.Details, d.ID)
	}
	return t.Flush()
}

// asked is what was asked for, in one line.
func asked(d *up.Denial) string {
	if d.Method == "" {
		return "TCP " + d.Destination.String()
	}
	return d.Method + " " + d.Host + d.Path
}

func writeDenial(w io.Writer, d *up.Denial) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "denied\t%s at %s by %s\n", asked(d), d.Time.Local().Format(time.DateTime), d.Workload)
	fmt.Fprintf(t, "answer\t%s\n", strings.TrimSpace(strings.TrimPrefix(fmt.Sprintf("%d %s", d.Status, d.Details), "0 ")))
	switch {
	case d.External != nil:
		fmt.Fprintf(t, "decided by\tprovider %s for %s%s\n", d.External.Provider, d.Policy, at(place(d.Origin)))
		if d.External.Error != "" {
			fmt.Fprintf(t, "\tno decision: %s\n", d.External.Error)
		}
		if d.External.Body != "" {
			fmt.Fprintf(t, "\tit answered: %s\n", strings.TrimSpace(d.External.Body))
		}
		if d.External.DecisionID != "" {
			fmt.Fprintf(t, "\tits decision id: %s\n", d.External.DecisionID)
		}
		for _, doc := range []struct {
			name string
			json []byte
		}{{"input", d.External.Input}, {"result", d.External.Result}} {
			if len(doc.json) > 0 {
				fmt.Fprintf(t, "\tits %s: %s\n", doc.name, doc.json)
			}
		}
	case d.TokenFault != "":
		fmt.Fprintf(t, "decided by\tthe token (%s)\n\t%s\n", d.Origin, d.TokenFault)
	case d.Policy == "":
		fmt.Fprintf(t, "decided by\tno ALLOW policy matches, and there are some\n")
	default:
		fmt.Fprintf(t, "decided by\t%s %s (%s)\n", d.Action, d.Policy, d.Origin)
	}
	fmt.Fprintf(t, "caller\t%s from %s\n", cmp.Or(d.Principal, "no identity (plaintext)"), d.Source)
	if d.RequestPrincipal != "" {
		fmt.Fprintf(t, "token\t%s\n", d.RequestPrincipal)
	}
	fmt.Fprintf(t, "called\t%s at %s\n", d.Local, d.Destination)
	if d.SNI != "" {
		fmt.Fprintf(t, "server name\t%s\n", d.SNI)
	}
	for _, k := range d.Considered {
		outcome := "matches"
		if k.Missed != "" {
			outcome = "does not match: " + k.Missed
		}
		fmt.Fprintf(t, "rule\t%s %s %s%s\n", k.Action, k.Policy, outcome, at(place(k.Origin)))
	}
	names := make([]string, 0, len(d.Headers))
	for name := range d.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(t, "header\t%s: %s\n", name, d.Headers[name])
	}
	fmt.Fprintf(t, "ids\tdecision %s, request %s, configuration %s\n", d.ID, cmp.Or(d.RequestID, "-"), cmp.Or(d.Version, "-"))
	return t.Flush()
}
