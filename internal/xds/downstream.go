package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func downstreamTLS(t *ir.DownstreamTLS) *core.TransportSocket {
	common := &tlspb.CommonTlsContext{AlpnProtocols: t.ALPN}
	for _, name := range append([]string{t.Secret}, t.MoreSecrets...) {
		if name != "" {
			common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs, &tlspb.SdsSecretConfig{Name: name, SdsConfig: adsSource()})
		}
	}
	for _, f := range t.Files {
		common.TlsCertificates = append(common.TlsCertificates, &tlspb.TlsCertificate{CertificateChain: fileSource(f.Cert), PrivateKey: fileSource(f.Key)})
	}
	switch {
	case t.ValidationSecret != "":
		context := combined(bundleName(t.ValidationSecret), t.SANs)
		validate(context.CombinedValidationContext.DefaultValidationContext, t)
		common.ValidationContextType = context
	case t.RequireClientCert || t.OptionalClientCert:
		v := &tlspb.CertificateValidationContext{}
		validate(v, t)
		common.ValidationContextType = &tlspb.CommonTlsContext_ValidationContext{ValidationContext: v}
	}
	common.TlsParams = &tlspb.TlsParameters{TlsMinimumProtocolVersion: tlsVersion(orDefault(t.MinVersion, "1.2")), TlsMaximumProtocolVersion: tlsVersion(t.MaxVersion), CipherSuites: t.CipherSuites, EcdhCurves: t.Curves}
	return &core.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &core.TransportSocket_TypedConfig{
		TypedConfig: pack(&tlspb.DownstreamTlsContext{CommonTlsContext: common, RequireClientCertificate: wrapperspb.Bool(t.RequireClientCert)})}}
}

// tlsVersion is AUTO for "".
func tlsVersion(v string) tlspb.TlsParameters_TlsProtocol {
	return map[string]tlspb.TlsParameters_TlsProtocol{"1.2": tlspb.TlsParameters_TLSv1_2, "1.3": tlspb.TlsParameters_TLSv1_3}[v]
}

// validate adds what is asked of clients' certificates beyond their names.
func validate(v *tlspb.CertificateValidationContext, t *ir.DownstreamTLS) {
	if t.ValidationSecret != ir.SecretRootCA { // outside the mesh a name may be of any kind
		v.MatchTypedSubjectAltNames = nil
		for _, s := range t.SANs {
			v.MatchTypedSubjectAltNames = append(v.MatchTypedSubjectAltNames, ofAnyKind(s)...)
		}
	}
	v.VerifyCertificateSpki, v.VerifyCertificateHash = t.SPKI, t.Hashes
	if t.CAFile != "" {
		v.TrustedCa = fileSource(t.CAFile)
	}
	if t.CRLFile != "" {
		v.Crl = fileSource(t.CRLFile)
	}
}

func fileSource(path string) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_Filename{Filename: path}}
}
