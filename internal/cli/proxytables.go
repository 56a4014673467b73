package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ir"
)

func listenerTable(w io.Writer, list []*ir.Listener) {
	fmt.Fprintln(w, "ADDRESS\tPORT\tCHAIN\tMATCH\tTLS\tDESTINATION\tFROM")
	for _, l := range list {
		chains := l.Chains
		if l.Default != nil {
			chains = append(chains[:len(chains):len(chains)], l.Default)
		}
		for _, c := range chains {
			to := ""
			if c.HTTP != nil {
				to = "Route: " + c.HTTP.RouteTable
			} else if c.TCP != nil {
				to = "Cluster: " + clusterNames(c.TCP.Clusters)
			}
			tls := "-"
			if c.TLS != nil {
				tls = "TLS"
				if c.TLS.RequireClientCert {
					tls = "mTLS"
				}
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", l.Address.Addr(), l.Address.Port(), c.Name, chainMatch(&c.Match), tls, to, place(c.Origin, l.Origin))
		}
	}
}

func chainMatch(m *ir.ChainMatch) string {
	var parts []string
	if m.Port != 0 {
		parts = append(parts, fmt.Sprintf("port %d", m.Port))
	}
	if m.Transport != "" {
		parts = append(parts, m.Transport)
	}
	if len(m.ServerNames) > 0 {
		parts = append(parts, "SNI "+strings.Join(m.ServerNames, ","))
	}
	if len(parts) == 0 {
		return "ALL"
	}
	return strings.Join(parts, "; ")
}

func clusterNames(list []ir.WeightedCluster) string {
	var out []string
	for _, w := range list {
		if len(list) > 1 {
			out = append(out, fmt.Sprintf("%s (%d)", w.Name, w.Weight))
		} else {
			out = append(out, w.Name)
		}
	}
	return strings.Join(out, ", ")
}

func place(origins ...ir.Origin) string {
	for _, o := range origins {
		if o.File != "" {
			return o.Place()
		}
		if o.Kind != "" {
			return o.String()
		}
	}
	return "-"
}

func routeTable(w io.Writer, list []*ir.RouteTable) {
	fmt.Fprintln(w, "TABLE\tVIRTUAL HOST\tROUTE\tMATCH\tTO\tTIMEOUT\tRETRIES\tFROM")
	for _, t := range list {
		for _, vh := range t.VirtualHosts {
			for _, r := range vh.Routes {
				to, timeout, retries := routeAction(r)
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, vh.Name, r.Name, routeMatch(&r.Match), to, timeout, retries, place(r.Match.Origin, r.Origin))
			}
		}
	}
}

func routeAction(r *ir.Route) (to, timeout, retries string) {
	timeout, retries = "-", "-"
	switch {
	case r.Redirect != nil:
		to = fmt.Sprintf("redirect %d", max(r.Redirect.Code, 301))
	case r.Direct != nil:
		to = fmt.Sprintf("answer %d", r.Direct.Status)
	case r.Forward != nil:
		to = clusterNames(r.Forward.Clusters)
		if r.Forward.Timeout > 0 {
			timeout = r.Forward.Timeout.String()
		}
		if p := r.Forward.Retry; p != nil {
			retries = fmt.Sprintf("%d on %s", p.Attempts, strings.Join(p.On, ","))
			for _, code := range p.Codes {
				retries += fmt.Sprintf(",%d", code)
			}
		}
	}
	if r.Fault != nil {
		to += " +fault"
	}
	if r.Forward != nil && len(r.Forward.Mirrors) > 0 {
		to += " +mirror"
	}
	return to, timeout, retries
}

func routeMatch(m *ir.RouteMatch) string {
	var parts []string
	if m.Path != nil {
		parts = append(parts, fmt.Sprintf("%s %s", m.Path.Kind, m.Path.Value))
	}
	for _, h := range m.Headers {
		not := ""
		if h.Invert {
			not = "not "
		}
		parts = append(parts, fmt.Sprintf("%s %s%s %s", h.Name, not, h.Value.Kind, h.Value.Value))
	}
	for _, q := range m.Query {
		parts = append(parts, fmt.Sprintf("?%s %s %s", q.Name, q.Value.Kind, q.Value.Value))
	}
	if len(parts) == 0 {
		return "ALL"
	}
	return strings.Join(parts, ", ")
}

func clusterTable(w io.Writer, list []*ir.Cluster) {
	fmt.Fprintln(w, "SERVICE FQDN\tPORT\tSUBSET\tDIRECTION\tTYPE\tTLS\tMAX CONN\tPENDING\tREQUESTS\tOUTLIER\tDESTINATION RULE")
	limit := func(n uint32) string {
		if n == ir.Unlimited {
			return "-"
		}
		return fmt.Sprint(n)
	}
	for _, c := range list {
		n := splitCluster(c.Name)
		tls, outlier := "-", "-"
		if c.TLS != nil {
			tls = c.TLS.Mode
		} else if c.AutoTLS != nil {
			tls = "auto " + c.AutoTLS.Mode
		}
		if c.Outlier != nil {
			outlier = fmt.Sprintf("%d×5xx, %s", c.Outlier.Consecutive5xx, c.Outlier.BaseEjection)
		}
		rule := "-"
		if !c.PolicyFrom.IsZero() {
			rule = place(c.PolicyFrom)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", firstOf(n.host, "-"), firstOf(n.port, "-"), firstOf(n.subset, "-"), firstOf(n.direction, "-"), c.Type, tls, limit(c.Breaker.MaxConnections), limit(c.Breaker.MaxPendingRequests), limit(c.Breaker.MaxRequests), outlier, rule)
	}
}

// clusterName is a cluster's name in its parts; one that Istio has not formed
// ("BlackHoleCluster") is all host.
type clusterName struct{ direction, port, subset, host string }

func splitCluster(name string) clusterName {
	p := strings.Split(name, "|")
	if len(p) != 4 {
		return clusterName{host: name}
	}
	return clusterName{direction: p[0], port: p[1], subset: p[2], host: p[3]}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func endpointTable(w io.Writer, list []agent.ClusterStatus) {
	fmt.Fprintln(w, "ENDPOINT\tSTATUS\tOUTLIER CHECK\tACTIVE\tWORKLOAD\tCLUSTER")
	for _, cl := range list {
		for _, e := range cl.Endpoints {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", e.Address, e.Status, e.Outlier, e.Active, firstOf(e.Workload.Instance, "-"), cl.Name)
		}
	}
}

func writeSecret(w io.Writer, i *agent.Certificates) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "RESOURCE\tTYPE\tIDENTITY OR SUBJECT\tSERIAL\tNOT AFTER")
	fmt.Fprintf(t, "default\tCert Chain\t%s\t%s\t%s\n", i.URI, i.Serial, i.NotAfter.UTC().Format(time.RFC3339))
	if app := i.Application; app != nil {
		fmt.Fprintf(t, "application\tCert Chain\t%s\t%s\t%s\n", app.URI, app.Serial, app.NotAfter.UTC().Format(time.RFC3339))
	}
	for _, r := range i.Roots {
		fmt.Fprintf(t, "ROOTCA\tCA\t%s\t%s\t%s\n", r.Subject, r.Serial, r.NotAfter.UTC().Format(time.RFC3339))
	}
	return t.Flush()
}
