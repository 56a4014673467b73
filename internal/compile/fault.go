package compile

import (
	"math"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// share turns a percentage into millionths; Istio's resolution is 0.0001 %.
func share(p *networking.Percent) ir.Share {
	return ir.Share(math.Round(p.GetValue() * 10_000))
}

func wholeShare(percent uint32) ir.Share { return ir.Share(percent) * 10_000 }

// fault compiles fault injection (VS46, VS47). Without a percentage nothing is
// injected, as Envoy reads an empty fraction.
func (b *builder) fault(rule *httpRule) *ir.Fault {
	f := rule.Fault
	if f == nil {
		return nil
	}
	out := &ir.Fault{}
	if d := f.Delay; d != nil {
		s := share(d.Percentage)
		if d.Percentage == nil {
			//lint:ignore SA1019 deprecated, and in people's files
			s = wholeShare(uint32(d.Percent))
		}
		if fixed := d.GetFixedDelay(); fixed != nil && s > 0 {
			out.Delay = &ir.FaultDelay{Fixed: dur(fixed, 0), Share: s, Origin: rule.at("fault.delay")}
		}
	}
	if a := f.Abort; a != nil {
		abort := &ir.FaultAbort{Share: share(a.Percentage), Origin: rule.at("fault.abort")}
		known := true
		switch e := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			abort.Status = int(e.HttpStatus)
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			abort.GRPC, known = resource.GRPCStatus(e.GrpcStatus)
		default: // http2Error: Istio ignores it; resource has refused it
			known = false
		}
		if known && abort.Share > 0 {
			out.Abort = abort
		}
	}
	if out.Delay == nil && out.Abort == nil {
		return nil
	}
	return out
}

// mirrors compiles mirror and mirrors (VS16 to VS18). No percentage is all
// requests, an explicit 0 none. Copies keep the host; before 1.28 Istio's were
// marked with "-shadow".
func (b *builder) mirrors(rule *httpRule, port uint16) []ir.Mirror {
	var out []ir.Mirror
	version, _ := b.Compatibility()
	add := func(vs *resource.VirtualService, d *networking.Destination, path string, s ir.Share) {
		if d != nil && s > 0 {
			out = append(out, ir.Mirror{Cluster: b.destination(vs, d, path, port), Share: s, ShadowHost: version == Compatibility120, Origin: vs.At(path)})
		}
	}
	if rule.Mirror != nil {
		s := ir.All
		switch {
		case rule.MirrorPercentage != nil:
			s = share(rule.MirrorPercentage)
		//lint:ignore SA1019 deprecated, and in people's files
		case rule.MirrorPercent != nil:
			//lint:ignore SA1019 deprecated, and in people's files
			s = wholeShare(rule.MirrorPercent.Value)
		}
		vs, path := rule.owner("mirror")
		add(vs, rule.Mirror, path, s)
	}
	vs, path := rule.owner("mirrors")
	for i, m := range rule.Mirrors {
		s := ir.All
		if m.Percentage != nil {
			s = share(m.Percentage)
		}
		add(vs, m.Destination, at(path, i)+".destination", s)
	}
	return out
}

// cors compiles a CORS policy (VS49).
func (b *builder) cors(rule *httpRule) *ir.CORS {
	c := rule.CorsPolicy
	if c == nil {
		return nil
	}
	out := &ir.CORS{
		Methods: strings.Join(c.AllowMethods, ","), Headers: strings.Join(c.AllowHeaders, ","), Expose: strings.Join(c.ExposeHeaders, ","),
		AllowCredentials: c.AllowCredentials.GetValue(), IgnoreUnmatched: c.UnmatchedPreflights == networking.CorsPolicy_IGNORE, Origin: rule.at("corsPolicy"),
	}
	if c.MaxAge != nil {
		out.MaxAge = strconv.FormatInt(c.MaxAge.GetSeconds(), 10)
	}
	for _, o := range c.AllowOrigins {
		out.Origins = append(out.Origins, stringMatch(o))
	}
	if c.AllowOrigins == nil {
		//lint:ignore SA1019 deprecated, and in people's files
		for _, o := range c.AllowOrigin {
			m := ir.Match{Kind: ir.Exact, Value: o}
			if o == "*" { // Envoy takes an exact "*" for any origin
				m = ir.Match{Kind: ir.Present}
			}
			out.Origins = append(out.Origins, m)
		}
	}
	for i, o := range out.Origins {
		if o.Kind == ir.Exact && o.Value == "*" {
			out.Origins[i] = ir.Match{Kind: ir.Present}
		}
	}
	return out
}
