package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/internal/up"
)

func writeDenial(w io.Writer, d *up.Denial) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "denied\t%s at %s by %s\n", asked(d.Method, d.Host, d.Path, d.Destination), d.Time.Local().Format(time.DateTime), d.Workload)
	fmt.Fprintf(t, "answer\t%s\n", strings.TrimPrefix(status(d.Status, "")+" "+d.Details, "- "))
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
