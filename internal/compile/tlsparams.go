package compile

import (
	meshv1 "istio.io/api/mesh/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// meshParameters are MeshConfig.meshMTLS: mutual TLS between workloads, on
// either side. Curves are not part of it, as in Istio.
func (x *Index) meshParameters(version *string, suites *[]string) {
	t := x.mesh.GetMeshMTLS()
	if t.GetMinProtocolVersion() == meshv1.MeshConfig_TLSConfig_TLSV1_3 {
		*version = "1.3"
	}
	x.suites(t.GetCipherSuites(), "data.mesh.meshMTLS.cipherSuites", version, suites)
}

// suites are those of TLS 1.2 that we have. Where none of them is, only TLS 1.3
// is left, which has its own: any suite at all would be more than was asked for.
func (x *Index) suites(asked []string, path string, version *string, suites *[]string) {
	*suites = x.known(asked, path, func(name string) bool {
		_, ok := ir.CipherSuite(name)
		return ok
	})
	if len(asked) > 0 && len(*suites) == 0 {
		*version = "1.3"
	}
}

// defaultParameters are MeshConfig.tlsDefaults: all TLS but that between
// workloads, where nothing more specific is said.
func (x *Index) defaultParameters(version *string, suites, curves *[]string) {
	t := x.mesh.GetTlsDefaults()
	if len(*suites) == 0 {
		x.suites(t.GetCipherSuites(), "data.mesh.tlsDefaults.cipherSuites", version, suites)
	}
	*curves = x.known(t.GetEcdhCurves(), "data.mesh.tlsDefaults.ecdhCurves", func(name string) bool {
		_, ok := ir.Curve(name)
		return ok
	})
}

// known drops the names that nothing here implements, and says so.
func (x *Index) known(names []string, path string, is func(string) bool) []string {
	var out []string
	for i, name := range names {
		if is(name) {
			out = append(out, name)
			continue
		}
		x.report(resource.Error, &x.set.MeshFrom, at(path, i), name+" is not one that we have; it is left out", "")
	}
	return out
}

// checkParameters refuses what Istio has no use for there either.
func (x *Index) checkParameters() {
	min := x.mesh.GetTlsDefaults().GetMinProtocolVersion()
	headers := x.mesh.GetDefaultConfig().GetProxyHeaders()
	x.refuse(&x.set.MeshFrom, map[string]bool{
		"data.mesh.meshMTLS.ecdhCurves":                                    len(x.mesh.GetMeshMTLS().GetEcdhCurves()) > 0,
		"data.mesh.tlsDefaults.minProtocolVersion":                         min != meshv1.MeshConfig_TLSConfig_TLS_AUTO,
		"data.mesh.defaultConfig.proxyHeaders.setCurrentClientCertDetails": headers.GetSetCurrentClientCertDetails() != nil,
	})
}

var clientCertDetails = map[meshv1.ForwardClientCertDetails]string{
	meshv1.ForwardClientCertDetails_SANITIZE:            "sanitize",
	meshv1.ForwardClientCertDetails_FORWARD_ONLY:        "forwardOnly",
	meshv1.ForwardClientCertDetails_APPEND_FORWARD:      "appendForward",
	meshv1.ForwardClientCertDetails_SANITIZE_SET:        "sanitizeSet",
	meshv1.ForwardClientCertDetails_ALWAYS_FORWARD_ONLY: "alwaysForwardOnly",
}

// edgeClientCert is what gateways do with x-forwarded-client-cert
// (gatewayTopology): by default nothing that the outside says is believed.
func (b *builder) edgeClientCert() string {
	if d := clientCertDetails[b.proxy.GetGatewayTopology().GetForwardClientCertDetails()]; d != "" {
		return d
	}
	return "sanitizeSet"
}

// inboundClientCert likewise for a sidecar's own workload (proxyHeaders): the
// caller's sidecar has proved who it is, and what gateways before it said stays.
func (b *builder) inboundClientCert() string {
	if d := clientCertDetails[b.proxy.GetProxyHeaders().GetForwardedClientCert()]; d != "" {
		return d
	}
	return "appendForward"
}
