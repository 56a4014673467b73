package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonfault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corspb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Envoy's names of the filters that a route configures.
const (
	faultFilter = "envoy.filters.http.fault"
	corsFilter  = "envoy.filters.http.cors"
)

// routeFilters stand in every HTTP chain, because routes configure them.
func routeFilters() []named {
	return []named{{faultFilter, &faultpb.HTTPFault{}}, {corsFilter, &corspb.Cors{}}}
}

// perFilter is a route's configuration of the fault and CORS filters.
func perFilter(r *ir.Route) map[string]*anypb.Any {
	if r.Fault == nil && r.CORS == nil {
		return nil
	}
	out := map[string]*anypb.Any{}
	if r.Fault != nil {
		out[faultFilter] = pack(encodeFault(r.Fault))
	}
	if r.CORS != nil {
		out[corsFilter] = pack(encodeCORS(r.CORS))
	}
	return out
}

func fraction(s ir.Share) *typepb.FractionalPercent {
	return &typepb.FractionalPercent{Numerator: uint32(s), Denominator: typepb.FractionalPercent_MILLION}
}

func encodeFault(f *ir.Fault) *faultpb.HTTPFault {
	out := &faultpb.HTTPFault{}
	if d := f.Delay; d != nil {
		out.Delay = &commonfault.FaultDelay{FaultDelaySecifier: &commonfault.FaultDelay_FixedDelay{FixedDelay: duration(d.Fixed)}, Percentage: fraction(d.Share)}
	}
	if a := f.Abort; a != nil {
		out.Abort = &faultpb.FaultAbort{Percentage: fraction(a.Share)}
		if a.Status != 0 {
			out.Abort.ErrorType = &faultpb.FaultAbort_HttpStatus{HttpStatus: uint32(a.Status)}
		} else {
			out.Abort.ErrorType = &faultpb.FaultAbort_GrpcStatus{GrpcStatus: uint32(a.GRPC)}
		}
	}
	return out
}

func encodeCORS(c *ir.CORS) *corspb.CorsPolicy {
	out := &corspb.CorsPolicy{
		AllowMethods: c.Methods, AllowHeaders: c.Headers, ExposeHeaders: c.Expose, MaxAge: c.MaxAge,
		ForwardNotMatchingPreflights: wrapperspb.Bool(!c.IgnoreUnmatched),
		FilterEnabled:                &core.RuntimeFractionalPercent{DefaultValue: &typepb.FractionalPercent{Numerator: 100}},
	}
	if c.AllowCredentials {
		out.AllowCredentials = wrapperspb.Bool(true)
	}
	for _, o := range c.Origins {
		if o.Kind == ir.Present { // Envoy takes an exact "*" for any origin
			o = ir.Match{Kind: ir.Exact, Value: "*"}
		}
		out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, stringMatcher(o))
	}
	return out
}
