package compile

import (
	"net"
	"slices"

	security "istio.io/api/security/v1beta1"
	typev1 "istio.io/api/type/v1beta1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

func joinHostPort(host string, port uint16) string { return net.JoinHostPort(host, itoa(int(port))) }

// mtlsMode is PeerAuthentication's, resolved.
type mtlsMode string

const (
	modeDisable    mtlsMode = "DISABLE"
	modePermissive mtlsMode = "PERMISSIVE"
	modeStrict     mtlsMode = "STRICT"
)

func modeOf(m *security.PeerAuthentication_MutualTLS) (mtlsMode, bool) {
	switch m.GetMode() {
	case security.PeerAuthentication_MutualTLS_DISABLE:
		return modeDisable, true
	case security.PeerAuthentication_MutualTLS_PERMISSIVE:
		return modePermissive, true
	case security.PeerAuthentication_MutualTLS_STRICT:
		return modeStrict, true
	}
	return "", false
}

// matches reports whether a selector picks labels.
func matches(s *typev1.WorkloadSelector, labels map[string]string) bool {
	return subset(s.GetMatchLabels(), labels)
}

// PeerMode is the mutual TLS mode of a workload's port and where it was set:
// workload over namespace over mesh, the oldest in each (PA2). A root
// namespace policy with a selector is ignored, as Istio's code does (T3).
func (x *Index) PeerMode(namespace string, labels map[string]string, port uint16) (string, ir.Origin) {
	mode, origin := modePermissive, ir.Origin{}
	workload := x.workloadPeerAuth(namespace, labels)
	for _, ns := range []string{x.rootNamespace(), namespace} {
		found := false
		for _, pa := range x.set.PeerAuthentications {
			if pa.Namespace != ns {
				continue
			}
			selects := len(pa.Spec.Selector.GetMatchLabels()) > 0
			switch {
			case selects && ns == x.rootNamespace():
				x.report(resource.Warning, &pa.Meta, "spec.selector", "a PeerAuthentication of the root namespace with a selector is ignored, as in Istio", "put it into the workload's namespace")
			case !selects && !found:
				found = true
				if m, ok := modeOf(pa.Spec.Mtls); ok {
					mode, origin = m, pa.At("spec.mtls")
				}
			}
		}
		if ns == namespace && namespace == x.rootNamespace() {
			break
		}
	}
	if workload != nil {
		if m, ok := modeOf(workload.Spec.Mtls); ok {
			mode, origin = m, workload.At("spec.mtls")
		}
		if m, ok := modeOf(workload.Spec.PortLevelMtls[uint32(port)]); ok {
			mode, origin = m, workload.At("spec.portLevelMtls."+itoa(int(port)))
		}
	}
	for _, d := range x.set.Denied { // a broken PeerAuthentication fails closed
		if d.Kind == "PeerAuthentication" && (d.Namespace == namespace || d.Namespace == x.rootNamespace()) && subset(d.MatchLabels, labels) {
			return string(modeStrict), d.Origin()
		}
	}
	return string(mode), origin
}

// workloadPeerAuth is the policy that selects a workload: the oldest.
func (x *Index) workloadPeerAuth(namespace string, labels map[string]string) *resource.PeerAuthentication {
	for _, pa := range x.set.PeerAuthentications {
		if pa.Namespace == namespace && namespace != x.rootNamespace() && len(pa.Spec.Selector.GetMatchLabels()) > 0 && matches(pa.Spec.Selector, labels) {
			return pa
		}
	}
	return nil
}

// portLevels are the ports for which the workload's policy has a mode.
func (b *builder) portLevels() []uint16 {
	var out []uint16
	if pa := b.workloadPeerAuth(b.node.Namespace, b.node.Labels); pa != nil {
		for port := range pa.Spec.PortLevelMtls {
			out = append(out, uint16(port))
		}
	}
	slices.Sort(out)
	return out
}

// clientMode is the hint a client goes by: mesh and namespace only (DR22).
func (x *Index) clientMode(s *service) (mtlsMode, ir.Origin) {
	m, o := x.PeerMode(s.Namespace, nil, 0)
	return mtlsMode(m), o
}
