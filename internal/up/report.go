package up

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// printer writes to the user, from any goroutine. Colours only on a terminal.
type printer struct {
	mu       *sync.Mutex
	out, err io.Writer
	colour   bool
	problems map[string]bool // shown already
}

func newPrinter(out, err *os.File) printer {
	info, statErr := out.Stat()
	return printer{mu: &sync.Mutex{}, out: out, err: err, problems: map[string]bool{}, colour: statErr == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == ""}
}

func (p *printer) step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "• "+format+"\n", args...)
}

func (p *printer) warn(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.err, "tulle: "+format+"\n", args...)
}

func (p *printer) bold(s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[1m" + s + "\x1b[0m"
}

// changed tells the user what is wrong with what they wrote, each problem once
// until it is mended (control.Options.Changed).
func (r *room) changed(s *control.State) {
	r.printer.mu.Lock()
	defer r.printer.mu.Unlock()
	fresh, all := newProblems(r.printer.problems, s.Problems())
	mended := 0
	for old := range r.printer.problems {
		if !all[old] {
			mended++
		}
	}
	r.printer.problems = all
	for _, p := range fresh {
		fmt.Fprintf(r.printer.err, "%s: %s\n", p.Severity, p)
	}
	if mended > 0 && len(all) == 0 {
		fmt.Fprintln(r.printer.out, "• no problems left")
	}
}

// ended tells of a process that ended by itself (machine.Options.Ended): the
// first time, and then when it has to wait longer. The log has every time.
func (r *room) ended(e machine.Ending) {
	r.log.Warn("process ended", "workload", e.Workload, "container", e.Container, "err", e.Err, "times", e.Count, "again in", e.Again)
	if e.Longer {
		r.printer.warn("%s", ending(e))
	}
}

func ending(e machine.Ending) string {
	why, times, hint := "exit status 0", "", ". See why with: tulle logs "+e.Workload
	if e.Err != nil {
		why = e.Err.Error()
	}
	if e.Container == machine.ProxyContainer {
		hint += " -c " + e.Container
	}
	if e.Count > 1 {
		times, hint = fmt.Sprintf(" %d times", e.Count), ""
	}
	return fmt.Sprintf("%s: %s ended%s (%s), again in %s%s", e.Workload, e.Container, times, why, e.Again, hint)
}

// WorkloadStatus is one row of the table.
type WorkloadStatus struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Owner     string            `json:"owner"`
	Labels    map[string]string `json:"labels,omitempty"`
	Identity  string            `json:"identity"`
	Address   string            `json:"address"`
	MTLS      string            `json:"mtls"`
	Ready     bool              `json:"ready"`
}

// Naming of the workload.
func (w WorkloadStatus) Naming() resource.Naming {
	return resource.Naming{Name: w.Name, Namespace: w.Namespace, Owner: w.Owner, Labels: w.Labels}
}

func (r *room) status() []WorkloadStatus {
	s := r.control.State()
	var out []WorkloadStatus
	for _, w := range r.machine.Workloads() {
		row := WorkloadStatus{Name: w.Name, Namespace: w.Namespace, Owner: w.Owner, Labels: w.Labels, Address: w.Address.String(), Ready: w.Ready, MTLS: "-", Identity: "-"}
		if w.Sidecar || w.Gateway {
			row.Identity = fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", r.spec.TrustDomain, w.Namespace, w.ServiceAccount)
		}
		if w.Sidecar && s != nil {
			row.MTLS, _ = s.Index.PeerMode(w.Namespace, w.Labels, 0)
		}
		out = append(out, row)
	}
	return out
}

// WriteWorkloads prints the table.
func WriteWorkloads(w io.Writer, rows []WorkloadStatus) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "WORKLOAD\tIDENTITY\tADDRESS\tMTLS\tREADY")
	label := resource.Shortest(rows, WorkloadStatus.Naming)
	for _, r := range rows {
		ready := "yes"
		if !r.Ready {
			ready = "no"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", label(r), r.Identity, r.Address, r.MTLS, ready)
	}
	_ = t.Flush() // standard output; an error there shows on its own
}

// report prints what a start is for: who runs, where it is reached, what to
// try. The last line is the time it took.
func (r *room) report() {
	p := &r.printer
	rows := r.status()
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out)
	WriteWorkloads(p.out, rows)
	fmt.Fprintln(p.out)
	t := tabwriter.NewWriter(p.out, 0, 0, 3, ' ', 0)
	for _, u := range []struct{ title, what string }{
		{"gateway", strings.TrimSpace(r.url("gateway", "http") + "  " + r.url("gateway-https", "https"))},
		{"OPA", r.url("opa", "http")},
		{"ext_authz", r.url("opa-grpc", "grpc")},
		{"root", r.root()},
		{"access log", r.accessLog()},
	} {
		if u.what != "" {
			fmt.Fprintf(t, "%s\t%s\n", u.title, u.what)
		}
	}
	_ = t.Flush()
	for _, try := range r.spec.Try {
		fmt.Fprintf(p.out, "\n%s\n  %s\n", p.bold("# "+try.Title), fill(try.Command, r.url("gateway", "http"), r.spec.Tokens))
	}
	fmt.Fprintf(p.out, "\nready in %.1f s\n", time.Since(r.spec.Started).Seconds())
}

// root says what a client of the gateway's HTTPS needs where the Secret is not
// the user's own.
func (r *room) root() string {
	if r.url("gateway-https", "https") == "" {
		return ""
	}
	return filepath.Join(r.spec.Dir, rootFile) + "  (curl --cacert: it signs what has no certificate of its own)"
}

// accessLog says how to turn the access log on where it is off, Istio's default:
// it is what one looks for first.
func (r *room) accessLog() string {
	if s := r.control.State(); s == nil || s.Set.Mesh.GetAccessLogFile() != "" {
		return ""
	}
	return "off; accessLogFile: /dev/stdout in the MeshConfig (key mesh of ConfigMap istio-system/istio) turns it on"
}
