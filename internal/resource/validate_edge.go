package resource

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// edgeProtocols are what ports of ServiceEntries and Sidecars may say.
var edgeProtocols = []string{"", "HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "REDIS", "MYSQL", "TCP", "TLS"}

func (o *object) protocol(path, p string) {
	if !slices.Contains(edgeProtocols, strings.ToUpper(p)) {
		o.fail(path, fmt.Sprintf("%q is not a protocol", p), strings.TrimPrefix(strings.Join(edgeProtocols, ", "), ", "))
	}
}

// validateServiceEntry follows Istio's ValidateServiceEntry.
func validateServiceEntry(o *object, se *networking.ServiceEntry) {
	if len(se.Hosts) == 0 {
		o.fail("spec.hosts", "at least one host is needed")
	}
	for i, h := range se.Hosts {
		if h == "*" {
			o.fail(FieldPath("spec.hosts", i), "the host * is not allowed here", `name a domain: "*.example.com"`)
			continue
		}
		o.host(FieldPath("spec.hosts", i), h)
	}
	none := se.Resolution == networking.ServiceEntry_NONE
	for i, a := range se.Addresses {
		if !strings.Contains(a, "/") {
			if _, err := netip.ParseAddr(a); err != nil {
				o.fail(FieldPath("spec.addresses", i), fmt.Sprintf("%q is not an address or a CIDR block", a))
			}
		} else if _, err := netip.ParsePrefix(a); err != nil {
			o.fail(FieldPath("spec.addresses", i), fmt.Sprintf("%q is not an address or a CIDR block", a))
		} else if !none && se.Resolution != networking.ServiceEntry_STATIC {
			o.fail(FieldPath("spec.addresses", i), "a CIDR block needs resolution NONE or STATIC")
		}
	}
	o.entryPorts(se)
	o.entryEndpoints(se)
	if len(se.Endpoints) > 0 && se.WorkloadSelector != nil {
		o.fail("spec.workloadSelector", "only one of endpoints and workloadSelector may be set")
	}
	for k, v := range se.WorkloadSelector.GetLabels() {
		if k == "" || strings.Contains(k+v, "*") {
			o.fail("spec.workloadSelector.labels."+k, "a label may not be empty or have wildcards")
		}
	}
}

func (o *object) entryPorts(se *networking.ServiceEntry) {
	if len(se.Ports) == 0 {
		o.fail("spec.ports", "at least one port is needed")
	}
	for i, p := range se.Ports {
		path := FieldPath("spec.ports", i)
		o.portNumber(path+".number", p.Number)
		o.protocol(path+".protocol", p.Protocol)
		if p.TargetPort != 0 {
			o.portNumber(path+".targetPort", p.TargetPort)
		}
		if p.Name == "" {
			o.fail(path+".name", "a name is needed")
		}
		for j, q := range se.Ports[:i] {
			if q.Name == p.Name || q.Number == p.Number {
				o.fail(path, "has the name or the number of "+FieldPath("spec.ports", j))
			}
		}
	}
}

func (o *object) entryEndpoints(se *networking.ServiceEntry) {
	wildcard := slices.IndexFunc(se.Hosts, func(h string) bool { return strings.HasPrefix(h, "*") })
	switch se.Resolution {
	case networking.ServiceEntry_NONE:
		if len(se.Endpoints) > 0 {
			o.fail("spec.endpoints", "resolution NONE takes no endpoints: connections go where they were meant to go", "use STATIC or DNS")
		}
	case networking.ServiceEntry_DNS, networking.ServiceEntry_DNS_ROUND_ROBIN:
		if wildcard >= 0 && len(se.Endpoints) == 0 && se.WorkloadSelector == nil {
			o.fail(FieldPath("spec.hosts", wildcard), "a wildcard cannot be resolved", "use resolution NONE, or name endpoints")
		}
		if se.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN && len(se.Endpoints) > 1 {
			o.fail("spec.endpoints[1]", "DNS_ROUND_ROBIN takes one endpoint")
		}
	case networking.ServiceEntry_DYNAMIC_DNS:
		if wildcard < 0 {
			o.fail("spec.resolution", "DYNAMIC_DNS is for wildcard hosts", "use DNS")
		}
		if len(se.Endpoints) > 0 {
			o.fail("spec.endpoints", "resolution DYNAMIC_DNS takes no endpoints")
		}
	}
	names := map[string]bool{}
	for _, p := range se.Ports {
		names[p.Name] = true
	}
	dns := se.Resolution == networking.ServiceEntry_DNS || se.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN
	for i, e := range se.Endpoints {
		path := FieldPath("spec.endpoints", i)
		o.workloadEntry(path, e, dns)
		for name := range e.Ports {
			if !names[name] {
				o.fail(path+".ports."+name, "the ServiceEntry has no port of this name")
			}
		}
	}
}

func validateWorkloadEntry(o *object, e *networking.WorkloadEntry) { o.workloadEntry("spec", e, true) }

// workloadEntry checks an endpoint; names: it may be a DNS name.
func (o *object) workloadEntry(path string, e *networking.WorkloadEntry, names bool) {
	for name, n := range e.Ports {
		o.portNumber(path+".ports."+name, n)
	}
	if strings.Count(e.Locality, "/") > 2 {
		o.fail(path+".locality", fmt.Sprintf("%q is not region/zone/subzone", e.Locality))
	}
	if socket, ok := strings.CutPrefix(e.Address, "unix://"); ok {
		if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") {
			o.fail(path+".address", "a unix socket's path is absolute, or begins with @ for an abstract one")
		}
		if len(e.Ports) > 0 {
			o.fail(path+".ports", "a unix socket has no ports")
		}
		return
	}
	if _, err := netip.ParseAddr(e.Address); err == nil {
		return
	}
	switch {
	case e.Address == "" && e.Network != "":
	case e.Address == "":
		o.fail(path+".address", "an address is needed")
	case !names:
		o.fail(path+".address", fmt.Sprintf("%q is not an address", e.Address), "resolution DNS takes names")
	case strings.Contains(e.Address, "*"):
		o.fail(path+".address", fmt.Sprintf("%q is not a host name", e.Address))
	default:
		o.host(path+".address", e.Address)
	}
}

func validateWorkloadGroup(o *object, g *networking.WorkloadGroup) {
	if g.Template == nil {
		o.fail("spec.template", "a template is needed")
		return
	}
	if g.Template.Address != "" {
		o.fail("spec.template.address", "a template has no address; each workload brings its own")
	}
	for name, n := range g.Template.Ports {
		o.portNumber("spec.template.ports."+name, n)
	}
	if p := g.Probe; p != nil {
		if p.HealthCheckMethod == nil {
			o.fail("spec.probe", "one of httpGet, tcpSocket, exec and grpc is needed")
		}
		for name, v := range map[string]int32{"initialDelaySeconds": p.InitialDelaySeconds, "timeoutSeconds": p.TimeoutSeconds,
			"periodSeconds": p.PeriodSeconds, "successThreshold": p.SuccessThreshold, "failureThreshold": p.FailureThreshold} {
			if v < 0 {
				o.fail("spec.probe."+name, "may not be negative")
			}
		}
	}
}

// validateSidecar follows Istio's ValidateSidecar.
func validateSidecar(o *object, sc *networking.Sidecar) {
	selects := len(sc.WorkloadSelector.GetLabels()) > 0
	if len(sc.Ingress) > 0 && !selects {
		o.fail("spec.ingress", "ingress listeners need a workloadSelector")
	}
	seen := map[uint32]bool{}
	for i, l := range sc.Ingress {
		path := FieldPath("spec.ingress", i)
		o.sidecarPort(path, l.Port, true)
		if seen[l.Port.GetNumber()] {
			o.fail(path+".port.number", "another ingress listener has this port")
		}
		seen[l.Port.GetNumber()] = true
		o.bind(path+".bind", l.Bind)
		o.defaultEndpoint(path+".defaultEndpoint", l.DefaultEndpoint)
		if t := l.Tls; t != nil && t.Mode != networking.ServerTLSSettings_SIMPLE && t.Mode != networking.ServerTLSSettings_MUTUAL {
			o.fail(path+".tls.mode", "SIMPLE and MUTUAL are allowed here")
		}
	}
	catchAll := -1
	for i, l := range sc.Egress {
		path := FieldPath("spec.egress", i)
		if l.Port == nil {
			if catchAll >= 0 {
				o.fail(path+".port", "only the last egress listener may leave the port out, and only one")
			}
			catchAll = i
		} else {
			o.sidecarPort(path, l.Port, false)
		}
		o.bind(path+".bind", l.Bind)
		if len(l.Hosts) == 0 {
			o.fail(path+".hosts", "at least one host is needed", "namespace/host, as in ./* or */api.example.com")
		}
		for j, h := range l.Hosts {
			o.egressHost(FieldPath(path+".hosts", j), h)
		}
	}
	if p := sc.OutboundTrafficPolicy; p != nil && p.EgressProxy != nil {
		o.fail("spec.outboundTrafficPolicy.egressProxy", "not supported yet")
	}
}

func (o *object) sidecarPort(path string, p *networking.SidecarPort, needed bool) {
	if p == nil {
		if needed {
			o.fail(path+".port", "a port is needed")
		}
		return
	}
	o.portNumber(path+".port.number", p.Number)
	o.protocol(path+".port.protocol", p.Protocol)
}

func (o *object) bind(path, bind string) {
	if _, err := netip.ParseAddr(bind); bind != "" && err != nil {
		if strings.HasPrefix(bind, "unix://") {
			o.fail(path, "binding to a unix socket is not supported yet")
			return
		}
		o.fail(path, fmt.Sprintf("%q is not an address", bind))
	}
}

// defaultEndpoint is where an ingress listener forwards to.
func (o *object) defaultEndpoint(path, e string) {
	if e == "" || strings.HasPrefix(e, "unix:///") || strings.HasPrefix(e, "unix://@") {
		return
	}
	ap, err := netip.ParseAddrPort(e)
	if err != nil || ap.Port() == 0 || !ap.Addr().IsLoopback() && !ap.Addr().IsUnspecified() {
		o.fail(path, fmt.Sprintf("%q is not 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///PATH", e))
	}
}

// egressHost is namespace/host; the namespace may be an exclusion ("~ns").
func (o *object) egressHost(path, h string) {
	ns, host, ok := strings.Cut(h, "/")
	if !ok || ns == "" || host == "" {
		o.fail(path, fmt.Sprintf("%q is not namespace/host", h), "as in ./*, */* or istio-system/*.example.com; ~/* means no host at all")
		return
	}
	if ns == "~" && host != "*" {
		o.fail(path, "~ alone goes with every host: ~/*", "~NAMESPACE/HOST excludes a host")
		return
	}
	o.host(path, host)
}
