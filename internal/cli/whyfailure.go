package cli

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/internal/up"
)

// writeFailure prints one failure: what was asked, what came of it, and where
// to look.
func writeFailure(w io.Writer, f *up.Failure) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "failed\t%s at %s by %s, after %s\n", asked(f.Method, f.Host, f.Path, f.Destination), f.Time.Local().Format(time.DateTime), f.Workload, seconds(f.Seconds))
	answer := status(f.Status, f.Flags) + " " + f.Details
	if f.GRPCStatus != "" {
		answer += ", grpc-status " + f.GRPCStatus
	}
	fmt.Fprintf(t, "answer\t%s\n", strings.TrimSuffix(answer, " -"))
	if f.Transport != "" {
		fmt.Fprintf(t, "\t%s\n", f.Transport)
	}
	if f.Hint != "" {
		fmt.Fprintf(t, "look at\t%s\n", f.Hint)
	}
	for _, l := range f.Lines {
		fmt.Fprintf(t, "decided by\t%s: %s\n", l.What, l.Origin)
	}
	for i, try := range f.Tries {
		fmt.Fprintf(t, "try %d\t%s: %s after %s\n", i+1, cmp.Or(try.Upstream, "no endpoint"), status(try.Status, try.Flags), seconds(try.Seconds))
	}
	if len(f.Tries) == 0 && f.Upstream != "" {
		fmt.Fprintf(t, "tried\t%s\n", f.Upstream)
	}
	if f.Cluster != "" {
		fmt.Fprintf(t, "cluster\t%s\n", f.Cluster)
	}
	caller := cmp.Or(f.Principal, "no identity (plaintext)")
	if f.Outbound {
		caller = "its own application"
	}
	fmt.Fprintf(t, "caller\t%s from %s\n", caller, f.Source)
	fmt.Fprintf(t, "called\t%s, by the proxy of %s\n", f.Destination, f.Local)
	if f.SNI != "" {
		fmt.Fprintf(t, "server name\t%s\n", f.SNI)
	}
	if f.Outbound {
		fmt.Fprintf(t, "explain\t%s\n", explainIt(f))
	}
	fmt.Fprintf(t, "ids\tfailure %s, request %s, configuration %s\n", f.ID, cmp.Or(f.RequestID, "-"), cmp.Or(f.Version, "-"))
	return t.Flush()
}

// explainIt is the command that asks about the same request. What its caller
// chose is quoted: the line is there to be pasted.
func explainIt(f *up.Failure) string {
	if f.Method == "" {
		return fmt.Sprintf("tulle explain --from %s --to %s", f.Workload, f.Destination)
	}
	to := f.Host
	if !strings.Contains(to, ":") {
		to += fmt.Sprintf(":%d", f.Destination.Port())
	}
	words := []string{"tulle", "explain", "--from", f.Workload, "--to", to, "--path", f.Path}
	if f.Method != "GET" {
		words = append(words, "-X", f.Method)
	}
	for i, word := range words {
		if plainWord.MatchString(word) {
			continue
		}
		words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

var plainWord = regexp.MustCompile(`^[\w./:-]+$`)

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Microsecond).String()
}
