package cli

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/tulle-mesh/tulle/internal/compile"
)

// writeService prints what concerns a service, each part in a table.
func writeService(w *bytes.Buffer, v *compile.ServiceView) {
	fmt.Fprintf(w, "Service:    %s/%s\nHost:       %s\nAddress:    %s\nFrom:       %s\n", v.Namespace, v.Name, v.Host, firstOf(v.Address, "-"), place(v.Origin))
	writePorts(w, v.Ports, "PORT\tNAME\tPROTOCOL\tTARGET", func(p compile.PortView) string { return row(p.Port, firstOf(p.Name, "-"), p.Protocol, p.Target) })
	table(w, "Endpoints", "WORKLOAD\tADDRESS\tPORTS\tREADY\tSIDECAR", v.Endpoints, func(e compile.EndpointView) string {
		return row(e.Workload, firstOf(e.Address, "-"), list(e.Ports), yes(e.Ready), yes(e.Sidecar))
	})
	writeTraffic(w, v)
	writePolicies(w, v.Policies)
	writeProblems(w, v.Problems)
}

// writePod prints what concerns an instance, then what leads to it.
func writePod(w *bytes.Buffer, v *compile.WorkloadView) {
	fmt.Fprintf(w, "Pod:        %s/%s\nOwner:      %s\nAddress:    %s\nIdentity:   %s\nReady:      %s\n", v.Namespace, v.Name, firstOf(v.Owner, "-"), firstOf(v.Address, "-"), firstOf(v.Identity, "none: it has no proxy"), yes(v.Ready))
	writePorts(w, v.Ports, "PORT\tNAME", func(p compile.PortView) string { return row(p.Port, firstOf(p.Name, "-")) })
	writePolicies(w, v.Policies)
	for _, s := range v.Services {
		var ports []string
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%d %s to %s", p.Port, p.Protocol, p.Target))
		}
		fmt.Fprintf(w, "\nService:    %s\nFrom:       %s\nPorts:      %s\n", s.Host, place(s.Origin), strings.Join(ports, ", "))
		writeTraffic(w, s)
	}
	fmt.Fprintln(w)
	writeProblems(w, v.Problems)
}

// writePorts prints a row for each mode of each port.
func writePorts(w *bytes.Buffer, ports []compile.PortView, columns string, cells func(compile.PortView) string) {
	type line struct {
		compile.PortView
		compile.ModeView
	}
	var lines []line
	for _, p := range ports {
		if len(p.Modes) == 0 {
			lines = append(lines, line{p, compile.ModeView{Mode: "-"}})
		}
		for _, m := range p.Modes {
			lines = append(lines, line{p, m})
		}
	}
	table(w, "Ports", columns+"\tMTLS\tFROM", lines, func(l line) string {
		from := "default"
		switch {
		case !l.Origin.IsZero():
			from = place(l.Origin)
		case l.Mode == "-" || l.Mode == compile.NoSidecar:
			from = "-"
		}
		return row(cells(l.PortView), l.Mode, from)
	})
}

// writeTraffic prints what decides about the requests to a service.
func writeTraffic(w *bytes.Buffer, v *compile.ServiceView) {
	table(w, "VirtualServices", "NAME\tSEEN BY\tFROM", v.Routes, func(r compile.RouteView) string {
		return row(r.Origin.Namespace+"/"+r.Origin.Name, strings.Join(r.Seen, ", "), place(r.Origin))
	})
	table(w, "DestinationRules", "NAME\tSAYS\tSUBSETS\tFROM", v.Rules, func(r compile.RuleView) string {
		var subsets []string
		for _, s := range r.Subsets {
			subsets = append(subsets, fmt.Sprintf("%s (%d)", s.Name, s.Workloads))
		}
		return row(r.Origin.Namespace+"/"+r.Origin.Name, firstOf(strings.Join(r.Says, ", "), "-"), firstOf(strings.Join(subsets, ", "), "-"), place(r.Origin))
	})
}

func writePolicies(w *bytes.Buffer, list []compile.PolicyView) {
	table(w, "Policies", "ACTION\tNAME\tRULES\tON\tFROM", list, func(p compile.PolicyView) string {
		action := p.Action
		if p.DryRun {
			action += " (dry run)"
		}
		return row(action, p.Origin.Namespace+"/"+p.Origin.Name, p.Rules, firstOf(strings.Join(p.Only, ", "), "all"), place(p.Origin))
	})
}

// table prints a titled part; of an empty one, that it is empty.
func table[T any](w *bytes.Buffer, title, head string, rows []T, text func(T) string) {
	if len(rows) == 0 {
		fmt.Fprintf(w, "%-11s none\n", title+":")
		return
	}
	fmt.Fprintln(w, title+":")
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "  "+head)
	for _, r := range rows {
		fmt.Fprintln(t, "  "+text(r))
	}
	_ = t.Flush() // into memory
}

func row(cells ...any) string {
	out := make([]string, len(cells))
	for i, c := range cells {
		out[i] = fmt.Sprint(c)
	}
	return strings.Join(out, "\t")
}

func list[T any](values []T) string {
	if len(values) == 0 {
		return "-"
	}
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(values)), ","), "[]")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
