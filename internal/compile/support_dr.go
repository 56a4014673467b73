package compile

import (
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// checkDestinationRule names what of a DestinationRule is not in force.
func (x *Index) checkDestinationRule(dr *resource.DestinationRule) {
	x.checkPolicy(dr, dr.Spec.TrafficPolicy, "spec.trafficPolicy")
	for i, s := range dr.Spec.Subsets {
		x.checkPolicy(dr, s.TrafficPolicy, at("spec.subsets", i, "trafficPolicy"))
	}
}

func (x *Index) checkPolicy(dr *resource.DestinationRule, p *networking.TrafficPolicy, path string) {
	if p == nil {
		return
	}
	x.refuse(&dr.Meta, map[string]bool{path + ".tunnel.protocol": p.Tunnel.GetProtocol() == "POST"})
}
