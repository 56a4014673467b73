package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/explain"
	"github.com/tulle-mesh/tulle/internal/up"
)

func explainCommand() *cobra.Command {
	var (
		q       explain.Question
		headers []string
	)
	c := &cobra.Command{
		Use:   "explain --from WORKLOAD --to HOST[:PORT]",
		Short: "Say what would happen to a request, and which line of YAML decides",
		Long: `Explain follows a request through the configuration in force, with the code
that decides on live traffic, and names each decision with its file and line
and what did not match before. It sends nothing, but for asking an external
authorizer. Exit code 3: the request would be refused; where that depends on
which destination or version it is sent to, each of the ends is listed, and the
first one counts.`,
		Example: `  tulle explain --from web --to worker:8000 --path /api/jobs
  tulle explain --from web --to http://worker:8000/api/jobs
  tulle explain --from istio-ingressgateway --to localhost --path /api/jobs -H "Authorization: Bearer $TOKEN"
  tulle explain --from orchestrator --to worker --method POST -H 'x-version: v2' -o json`,
		Args: usage(cobra.NoArgs),
	}
	output := outputFlag(c)
	f := c.Flags()
	f.StringVar(&q.From, "from", "", "workload that calls, or a gateway")
	f.StringVar(&q.To, "to", "", "host and port, or an http URL, as the caller writes them (default port: the service's only one, else 80)")
	f.StringVarP(&q.Method, "method", "X", "GET", "HTTP method")
	f.StringVar(&q.Path, "path", "/", "path, with query")
	f.StringVar(&q.Address, "address", "", "IP address of who calls a gateway (default: not known; policies that ask for one do not match)")
	f.StringArrayVarP(&headers, "header", "H", nil, "'Name: value' (may be repeated)")
	_ = c.RegisterFlagCompletionFunc("from", completeWorkloads) // the flag exists
	c.RunE = func(c *cobra.Command, _ []string) error {
		if q.From == "" || q.To == "" {
			return &exitError{exitUsage, "say who calls whom: tulle explain --from web --to worker:8000"}
		}
		q.Headers = map[string]string{}
		for _, h := range headers {
			name, value, ok := strings.Cut(h, ":")
			if !ok {
				return &exitError{exitUsage, fmt.Sprintf("--header %q: want 'Name: value'", h)}
			}
			q.Headers[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
		if err := takeURL(&q, c.Flags().Changed("path")); err != nil {
			return &exitError{exitUsage, err.Error()}
		}
		client, err := up.Connect()
		if err != nil {
			return err
		}
		var a explain.Answer
		if err := client.Post(c.Context(), "/v1/explain", q, &a); err != nil {
			return err
		}
		if err := output(a, func(w io.Writer) error { return writeAnswer(w, &a) }); err != nil {
			return err
		}
		if !a.Allowed {
			return &exitError{exitNo, ""}
		}
		return nil
	}
	return c
}

// takeURL takes a URL as To apart; path: there is a flag for that already.
func takeURL(q *explain.Question, path bool) error {
	if !strings.Contains(q.To, "://") {
		return nil
	}
	u, err := url.Parse(q.To)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" {
		return fmt.Errorf("--to %s: want HOST[:PORT] or a URL of http", q.To)
	}
	if q.To = u.Host; u.Port() == "" {
		q.To += ":80"
	}
	if !path {
		q.Path = u.RequestURI()
	}
	return nil
}

func writeAnswer(w io.Writer, a *explain.Answer) error {
	for i, s := range a.Steps {
		fmt.Fprintf(w, "%d. %-10s %s\n", i+1, s.Step, s.Outcome)
		if !s.Origin.IsZero() {
			fmt.Fprintf(w, "   %-10s by %s\n", "", s.Origin)
		}
		for _, m := range s.Missed {
			fmt.Fprintf(w, "   %-10s not %s: %s%s\n", "", m.What, m.Why, at(place(m.Origin)))
		}
	}
	for _, e := range a.Ends {
		fmt.Fprintf(w, "=> at %s: %s\n", e.At, verdict(e))
	}
	if a.Ends == nil {
		fmt.Fprintf(w, "=> %s\n", verdict(explain.End{Allowed: a.Allowed, Leaves: a.Leaves, Status: a.Status, Flag: a.Flag}))
	}
	return nil
}

// verdict is what comes of a request, in one line.
func verdict(e explain.End) string {
	switch {
	case e.Leaves:
		return "the request leaves the mesh: whether anybody answers is not known here"
	case e.Allowed:
		return "the request reaches the application"
	case e.Status == 0:
		return "the connection is closed"
	case e.Flag != "":
		return fmt.Sprintf("answered by the mesh: %d, response flag %s", e.Status, e.Flag)
	}
	return fmt.Sprintf("answered by the mesh: %d", e.Status)
}

func at(place string) string {
	if place == "-" {
		return ""
	}
	return " (" + place + ")"
}
