package resource

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
)

// grpcStatuses are the names of gRPC's codes, by number.
var grpcStatuses = []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

// GRPCStatus is the number of a gRPC status by its name in upper case.
func GRPCStatus(name string) (int, bool) {
	i := slices.Index(grpcStatuses, name)
	return i, i >= 0
}

func (o *object) percent(path string, p *networking.Percent) {
	if v := p.GetValue(); v < 0 || v > 100 {
		o.fail(path+".value", fmt.Sprintf("%g is not a percentage", v))
	} else if v > 0 && v < 0.0001 {
		o.fail(path+".value", fmt.Sprintf("%g is finer than 0.0001, the smallest share there is", v))
	}
}

func (o *object) wholePercent(path string, v int64) {
	if v < 0 || v > 100 {
		o.fail(path, fmt.Sprintf("%d is not a percentage", v))
	}
}

// duration: Istio takes at least a millisecond, and whole ones.
func (o *object) duration(path string, d *durationpb.Duration) {
	if d == nil {
		return
	}
	if v := d.AsDuration(); v < time.Millisecond || v%time.Millisecond != 0 {
		o.fail(path, fmt.Sprintf("%s: want whole milliseconds, at least 1ms", v), "leave it out for none")
	}
}

func (o *object) fault(path string, f *networking.HTTPFaultInjection, answers bool) {
	if f == nil {
		return
	}
	if answers {
		o.fail(path, "Istio takes no fault beside a redirect or directResponse")
	}
	if f.Delay == nil && f.Abort == nil {
		o.fail(path, "a delay or an abort is needed")
	}
	if d := f.Delay; d != nil {
		sub := path + ".delay"
		o.percent(sub+".percentage", d.Percentage)
		//lint:ignore SA1019 deprecated, and in people's files
		o.wholePercent(sub+".percent", int64(d.Percent))
		switch t := d.HttpDelayType.(type) {
		case *networking.HTTPFaultInjection_Delay_FixedDelay:
			o.duration(sub+".fixedDelay", t.FixedDelay)
			//lint:ignore SA1019 deprecated, and in people's files
			if d.Percentage == nil && d.Percent == 0 {
				o.warn(sub, "no percentage: nothing is delayed", "add percentage: {value: 100}")
			}
		case *networking.HTTPFaultInjection_Delay_ExponentialDelay:
			o.fail(sub+".exponentialDelay", "Istio does not implement it", "use fixedDelay")
		default:
			o.fail(sub, "fixedDelay is needed")
		}
	}
	if a := f.Abort; a != nil {
		o.abort(path+".abort", a)
	}
}

func (o *object) abort(path string, a *networking.HTTPFaultInjection_Abort) {
	o.percent(path+".percentage", a.Percentage)
	if a.Percentage == nil {
		o.warn(path, "no percentage: nothing is aborted", "add percentage: {value: 100}")
	}
	switch t := a.ErrorType.(type) {
	case *networking.HTTPFaultInjection_Abort_HttpStatus:
		if t.HttpStatus < 200 || t.HttpStatus > 599 {
			o.fail(path+".httpStatus", "want a status from 200 to 599")
		}
	case *networking.HTTPFaultInjection_Abort_GrpcStatus:
		if _, ok := GRPCStatus(t.GrpcStatus); !ok {
			o.fail(path+".grpcStatus", fmt.Sprintf("%q is not a gRPC status", t.GrpcStatus), didYouMean(t.GrpcStatus, grpcStatuses))
		}
	case *networking.HTTPFaultInjection_Abort_Http2Error:
		o.fail(path+".http2Error", "Istio does not implement it", "use httpStatus or grpcStatus")
	default:
		o.fail(path, "one of httpStatus and grpcStatus is needed")
	}
}

func (o *object) mirrors(path string, r *networking.HTTPRoute) {
	if r.Mirror != nil {
		o.destination(path+".mirror", r.Mirror)
		if len(r.Mirrors) > 0 {
			o.fail(path+".mirrors", "only one of mirror and mirrors may be set")
		}
	}
	o.percent(path+".mirrorPercentage", r.MirrorPercentage)
	//lint:ignore SA1019 deprecated, and in people's files
	o.wholePercent(path+".mirrorPercent", int64(r.MirrorPercent.GetValue()))
	for i, m := range r.Mirrors {
		o.destination(FieldPath(path+".mirrors", i, "destination"), m.Destination)
		o.percent(FieldPath(path+".mirrors", i, "percentage"), m.Percentage)
	}
}

func (o *object) cors(path string, c *networking.CorsPolicy) {
	if c == nil {
		return
	}
	for i, m := range c.AllowOrigins {
		sub := FieldPath(path+".allowOrigins", i)
		o.stringMatch(sub, m)
		if m.GetMatchType() == nil || m.GetExact()+m.GetPrefix()+m.GetRegex() == "" {
			o.fail(sub, "an origin is needed: exact, prefix or regex")
		}
	}
	//lint:ignore SA1019 deprecated, and in people's files
	if len(c.AllowOrigins) > 0 && len(c.AllowOrigin) > 0 {
		o.warn(path+".allowOrigin", "allowOrigins is set too, so allowOrigin has no effect", "")
	}
	for i, m := range c.AllowMethods {
		if m != "*" && !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}, m) {
			o.fail(FieldPath(path+".allowMethods", i), fmt.Sprintf("%q is not a method", m))
		}
	}
	for name, list := range map[string][]string{"allowHeaders": c.AllowHeaders, "exposeHeaders": c.ExposeHeaders} {
		for i, h := range list {
			o.headerName(FieldPath(path+"."+name, i), h)
		}
	}
	if d := c.MaxAge; d != nil && (d.AsDuration() < 0 || d.Nanos != 0) {
		o.fail(path+".maxAge", "want whole seconds")
	}
}

func (o *object) redirect(path string, route *networking.HTTPRoute) {
	r := route.Redirect
	if r == nil {
		return
	}
	if r.PrefixRewrite != "" {
		for _, m := range route.Match {
			if _, prefix := m.GetUri().GetMatchType().(*networking.StringMatch_Prefix); m.Uri != nil && !prefix {
				o.fail(path+".prefixRewrite", "every uri match must be a prefix")
			}
		}
	}
	if r.RedirectCode != 0 && !slices.Contains([]uint32{301, 302, 303, 307, 308}, r.RedirectCode) {
		o.fail(path+".redirectCode", "want 301, 302, 303, 307 or 308")
	}
	if r.Uri == "" && r.Authority == "" && r.RedirectPort == nil && r.Scheme == "" && r.PrefixRewrite == "" {
		o.fail(path, "one of uri, prefixRewrite, authority, port, derivePort and scheme is needed")
	}
	if r.Uri != "" && r.PrefixRewrite != "" {
		o.fail(path+".prefixRewrite", "only one of uri and prefixRewrite may be set")
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		o.fail(path+".scheme", fmt.Sprintf("%q is not http or https", r.Scheme))
	}
	if r.GetPort() > 65535 {
		o.portNumber(path+".port", r.GetPort())
	}
}

func (o *object) directResponse(path string, d *networking.HTTPDirectResponse) {
	if d == nil {
		return
	}
	if d.Status < 200 || d.Status > 599 {
		o.fail(path+".status", "want a status from 200 to 599")
	}
	// Envoy bounds direct responses to 4 KiB; Istio validates 1 MiB and warns above 100 KiB.
	size := len(d.GetBody().GetString_()) + len(d.GetBody().GetBytes())
	if size > 1<<20 {
		o.fail(path+".body", "may not exceed 1 MiB")
	} else if size > 100<<10 {
		o.warn(path+".body", "is larger than 100 KiB, and every proxy carries it", "serve it from a workload")
	}
}

func (o *object) rewrite(path string, r *networking.HTTPRoute) {
	w := r.Rewrite
	if w == nil {
		return
	}
	if r.Redirect != nil {
		o.fail(path, "a redirect cannot be combined with a rewrite")
	}
	if r.DirectResponse != nil {
		o.fail(path, "a directResponse cannot be combined with a rewrite")
	}
	if w.Uri == "" && w.Authority == "" && w.UriRegexRewrite == nil {
		o.fail(path, "one of uri, uriRegexRewrite and authority is needed")
	}
	if x := w.UriRegexRewrite; x != nil {
		o.regex(path+".uriRegexRewrite.match", x.Match)
		switch {
		case w.Uri != "":
			o.fail(path, "only one of uri and uriRegexRewrite may be set")
		case x.Match == "" || x.Rewrite == "":
			o.fail(path+".uriRegexRewrite", "both match and rewrite are needed")
		}
	}
	for i, m := range r.Match {
		if p := m.GetUri().GetPrefix(); w.Uri == "/" && p != "" && !strings.HasSuffix(p, "/") {
			o.warn(FieldPath(strings.TrimSuffix(path, ".rewrite")+".match", i, "uri.prefix"),
				fmt.Sprintf("%q is replaced by \"/\": the path %q becomes \"//x\"", p, p+"/x"), fmt.Sprintf("match %q and %q exactly", p+"/", p))
		}
	}
}

func (o *object) headers(path string, h *networking.Headers) {
	for name, ops := range map[string]*networking.Headers_HeaderOperations{"request": h.GetRequest(), "response": h.GetResponse()} {
		sub := path + "." + name
		for _, m := range []struct {
			name   string
			values map[string]string
		}{{"set", ops.GetSet()}, {"add", ops.GetAdd()}} {
			for _, k := range sortedKeys(m.values) {
				o.operated(sub+"."+m.name+"."+k, k)
				if strings.Count(m.values[k], "%")%2 != 0 {
					o.fail(sub+"."+m.name+"."+k, fmt.Sprintf("%q has a single %%", m.values[k]), "%% is a percent sign")
				}
				if strings.ContainsAny(m.values[k], "\r\n\x00") {
					o.fail(sub+"."+m.name+"."+k, "a header's value may not hold line ends")
				}
			}
		}
		for i, k := range ops.GetRemove() {
			o.operated(FieldPath(sub+".remove", i), k)
		}
	}
}

// operated checks a name that header operations change; of the pseudo headers
// only :authority, which rewrites the host.
func (o *object) operated(path, name string) {
	if strings.EqualFold(name, ":authority") {
		return
	}
	o.headerName(path, name)
}

// authority: only one place may set the host for the whole rule.
func (o *object) authority(path string, r *networking.HTTPRoute) {
	var set []string
	if r.Rewrite.GetAuthority() != "" {
		set = append(set, "rewrite.authority")
	}
	for _, m := range []struct {
		name   string
		values map[string]string
	}{{"set", r.Headers.GetRequest().GetSet()}, {"add", r.Headers.GetRequest().GetAdd()}} {
		for _, k := range sortedKeys(m.values) {
			if strings.EqualFold(k, "host") || strings.EqualFold(k, ":authority") {
				set = append(set, "headers.request."+m.name+"."+k)
			}
		}
	}
	if len(set) > 1 {
		o.fail(path, "the authority is set more than once: "+strings.Join(set, ", "))
	}
}

// delegation checks VS41's form on the side of a root and of a delegate.
func (o *object) delegation(vs *networking.VirtualService) {
	if len(vs.Hosts) > 0 {
		for i, r := range vs.Http {
			if r.Delegate != nil && r.Delegate.Name == "" {
				o.fail(FieldPath("spec.http", i, "delegate.name"), "a name is needed")
			}
		}
		return
	}
	if len(vs.Gateways) > 0 {
		o.fail("spec.gateways", "a delegate (no hosts) is bound to no gateway: its root is")
	}
	if len(vs.Tls)+len(vs.Tcp) > 0 {
		o.fail("spec", "a delegate (no hosts) has http routes only")
	}
	for i, r := range vs.Http {
		if r.Delegate != nil {
			o.fail(FieldPath("spec.http", i, "delegate"), "a delegate may not delegate again")
		}
		for j, m := range r.Match {
			if len(m.Gateways)+len(m.SourceLabels) > 0 || m.SourceNamespace != "" {
				o.fail(FieldPath("spec.http", i, "match", j), "a delegate may not select proxies by gateways, sourceLabels or sourceNamespace: its root does")
			}
		}
	}
}
