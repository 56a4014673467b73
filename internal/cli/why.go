package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
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
		Short: "Say why a request was refused, or failed in the mesh",
		Long: `Why opens a denial: which policy and rule refused the request, by which line of
YAML, and for every rule that could have let it pass, what was missing. Of a
request that the mesh failed for another reason it says what happened at each
try, which lines of YAML had a say, and what to look at. What an application
answered itself it does not know.

ID is the x-request-id of the access log, an ID of the list, or the value of the
response header x-tulle-decision, which a caller gets that brings the debug
credential. Without ID the newest are listed. Proxies keep the newest 256 of both kinds each. Exit
code 3: no proxy knows the ID.`,
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
		list, err := events(c.Context(), client, id)
		if err != nil {
			return err
		}
		if id != "" && len(list) == 0 {
			return &exitError{exitNo, fmt.Sprintf("no proxy remembers %q: of denials and of failures the newest 256 of each workload are kept, of what applications answer nothing; \"tulle why\" lists them", id)}
		}
		docs := make([]any, len(list))
		for i := range list {
			docs[i] = list[i].doc
		}
		return output(docs, func(w io.Writer) error {
			if len(list) == 0 {
				_, err := fmt.Fprintln(w, "nothing was refused, and nothing failed in the mesh")
				return err
			}
			if id == "" {
				return listEvents(w, list)
			}
			for i := range list {
				if err := list[i].write(w); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}

// event is a denial or a failure.
type event struct {
	time  time.Time
	doc   any
	cells []string // of its row
	write func(io.Writer) error
}

// events are the newest of both kinds, or those with an id, the last one first.
func events(ctx context.Context, client *up.Client, id string) ([]event, error) {
	query := "?" + url.Values{"id": {id}}.Encode()
	var denials []up.Denial
	var failures []up.Failure
	if err := client.Get(ctx, "/v1/denials"+query, &denials); err != nil {
		return nil, err
	}
	if err := client.Get(ctx, "/v1/failures"+query, &failures); err != nil {
		return nil, err
	}
	var out []event
	for i := range denials {
		d := &denials[i]
		out = append(out, event{d.Time, d, []string{d.Workload, asked(d.Method, d.Host, d.Path, d.Destination), cmp.Or(d.Principal, "-"), status(d.Status, ""), d.Details, d.ID},
			func(w io.Writer) error { return writeDenial(w, d) }})
	}
	for i := range failures {
		f := &failures[i]
		out = append(out, event{f.Time, f, []string{f.Workload, asked(f.Method, f.Host, f.Path, f.Destination), cmp.Or(f.Principal, "-"), status(f.Status, f.Flags), f.Details, cmp.Or(f.RequestID, f.ID)},
			func(w io.Writer) error { return writeFailure(w, f) }})
	}
	slices.SortStableFunc(out, func(a, b event) int { return b.time.Compare(a.time) })
	return out, nil
}

func listEvents(w io.Writer, list []event) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "TIME\tWORKLOAD\tREQUEST\tPRINCIPAL\tSTATUS\tDETAILS\tID")
	for _, e := range list {
		fmt.Fprintln(t, e.time.Local().Format(time.TimeOnly)+"\t"+strings.Join(e.cells, "\t"))
	}
	return t.Flush()
}

// asked is what was asked for, in one line.
func asked(method, host, path string, destination netip.AddrPort) string {
	if method == "" {
		return "TCP " + destination.String()
	}
	return method + " " + host + path
}

// status is a response's status and flags as far as there are any.
func status(code int, flags string) string {
	var parts []string
	if code != 0 {
		parts = append(parts, fmt.Sprint(code))
	}
	if flags != "" && flags != "-" {
		parts = append(parts, flags)
	}
	return cmp.Or(strings.Join(parts, " "), "-")
}
