package compile

import (
	"strconv"

	typev1 "istio.io/api/type/v1beta1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// gatewayName is the label that the pods of a Gateway of the Gateway API have.
const gatewayName = "gateway.networking.k8s.io/gateway-name"

// targetRefs are what an AuthorizationPolicy is attached to; the single form
// is one of them.
func targetRefs(p *resource.AuthorizationPolicy) []*typev1.PolicyTargetReference {
	if p.Spec.TargetRef != nil {
		return []*typev1.PolicyTargetReference{p.Spec.TargetRef}
	}
	return p.Spec.TargetRefs
}

func toGateway(r *typev1.PolicyTargetReference) bool {
	return r.Kind == "Gateway" && r.Group == "gateway.networking.k8s.io"
}

// attached reports whether a policy is in force at a workload: those of its
// own and of the root namespace whose selector picks it (AP4), or, for the pods
// of a Gateway, those that name the Gateway (X5).
func (x *Index) attached(p *resource.AuthorizationPolicy, namespace string, labels map[string]string, gateway bool) bool {
	refs := targetRefs(p)
	if len(refs) == 0 {
		return (p.Namespace == namespace || p.Namespace == x.rootNamespace()) && matches(p.Spec.Selector, labels)
	}
	for _, r := range refs {
		if gateway && p.Namespace == namespace && toGateway(r) && r.Name == labels[gatewayName] {
			return true
		}
	}
	return false
}

// checkTargets names the targets that are not there to be attached to: Service,
// ServiceEntry and GatewayClass are waypoints' in Istio.
func (x *Index) checkTargets(p *resource.AuthorizationPolicy) {
	for i, r := range targetRefs(p) {
		path := at("spec.targetRefs", i)
		if p.Spec.TargetRef != nil {
			path = "spec.targetRef"
		}
		if !toGateway(r) {
			x.report(resource.Error, &p.Meta, path+".kind", "target "+strconv.Quote(r.Group+"/"+r.Kind)+" is not supported yet: only Gateway of gateway.networking.k8s.io is; this part is not in force", "select the workloads with a selector")
		}
	}
}
