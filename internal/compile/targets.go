package compile

import (
	"strconv"

	typev1 "istio.io/api/type/v1beta1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// gatewayName is the label that the pods of a Gateway of the Gateway API have.
const gatewayName = "gateway.networking.k8s.io/gateway-name"

// attachable is the spec of an AuthorizationPolicy or a RequestAuthentication.
type attachable interface {
	GetSelector() *typev1.WorkloadSelector
	GetTargetRef() *typev1.PolicyTargetReference
	GetTargetRefs() []*typev1.PolicyTargetReference
}

// targetRefs are what an object is attached to; the single form is one of them.
func targetRefs(s attachable) []*typev1.PolicyTargetReference {
	if r := s.GetTargetRef(); r != nil {
		return []*typev1.PolicyTargetReference{r}
	}
	return s.GetTargetRefs()
}

func toGateway(r *typev1.PolicyTargetReference) bool {
	return r.Kind == "Gateway" && r.Group == "gateway.networking.k8s.io"
}

// attached reports whether an object is in force at a workload: those of its
// own and of the root namespace whose selector picks it (AP4), or, for the pods
// of a Gateway, those that name the Gateway (X5).
func (x *Index) attached(m *resource.Meta, s attachable, namespace string, labels map[string]string, gateway bool) bool {
	refs := targetRefs(s)
	if len(refs) == 0 {
		return (m.Namespace == namespace || m.Namespace == x.rootNamespace()) && matches(s.GetSelector(), labels)
	}
	for _, r := range refs {
		if gateway && m.Namespace == namespace && toGateway(r) && r.Name == labels[gatewayName] {
			return true
		}
	}
	return false
}

// checkTargets names the targets that are not there to be attached to: Service,
// ServiceEntry and GatewayClass are waypoints' in Istio.
func (x *Index) checkTargets(m *resource.Meta, s attachable) {
	for i, r := range targetRefs(s) {
		path := at("spec.targetRefs", i)
		if s.GetTargetRef() != nil {
			path = "spec.targetRef"
		}
		if !toGateway(r) {
			x.report(resource.Error, m, path+".kind", "target "+strconv.Quote(r.Group+"/"+r.Kind)+" is not supported yet: only Gateway of gateway.networking.k8s.io is; this part is not in force", "select the workloads with a selector")
		}
	}
}
