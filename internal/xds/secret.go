package xds

import (
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// caSuffix names the trust bundle of a credential (Istio's convention).
const caSuffix = "-cacert"

func inline(b []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
}

// bundleName is how the trust bundle of a credential is called. The mesh's own
// is no part of one.
func bundleName(secret string) string {
	if secret == ir.SecretRootCA {
		return secret
	}
	return secret + caSuffix
}

func encodeSecret(s *ir.Secret) []*tlspb.Secret {
	var out []*tlspb.Secret
	if len(s.Cert) > 0 {
		certificate := &tlspb.TlsCertificate{CertificateChain: inline(s.Cert), PrivateKey: inline(s.Key)}
		if len(s.Staple) > 0 {
			certificate.OcspStaple = inline(s.Staple)
		}
		out = append(out, &tlspb.Secret{Name: s.Name, Type: &tlspb.Secret_TlsCertificate{TlsCertificate: certificate}})
	}
	if len(s.CA) > 0 {
		bundle := &tlspb.CertificateValidationContext{TrustedCa: inline(s.CA)}
		if len(s.CRL) > 0 {
			bundle.Crl = inline(s.CRL)
		}
		out = append(out, &tlspb.Secret{Name: bundleName(s.Name), Type: &tlspb.Secret_ValidationContext{ValidationContext: bundle}})
	}
	return out
}

func decodeSecrets(r *Resources) ([]*ir.Secret, error) {
	byName := map[string]*ir.Secret{}
	var out []*ir.Secret
	get := func(name string) *ir.Secret {
		if byName[name] == nil {
			byName[name] = &ir.Secret{Name: name}
			out = append(out, byName[name])
		}
		return byName[name]
	}
	for _, name := range r.names(SecretType) {
		m := &tlspb.Secret{}
		if err := r.ByType[SecretType][name].Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		if c := m.GetTlsCertificate(); c != nil {
			s := get(name)
			s.Cert, s.Key, s.Staple = c.CertificateChain.GetInlineBytes(), c.PrivateKey.GetInlineBytes(), c.OcspStaple.GetInlineBytes()
		}
		if v := m.GetValidationContext(); v != nil {
			s := get(strings.TrimSuffix(name, caSuffix))
			s.CA, s.CRL = v.TrustedCa.GetInlineBytes(), v.Crl.GetInlineBytes()
		}
	}
	return out, nil
}
