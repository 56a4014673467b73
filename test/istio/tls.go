package istio

import (
	"strings"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
)

// untypedNames writes names that are looked for in every kind of alternative
// name as the untyped field that Istio still uses, which means the same. In the
// mesh a name is a URI, so that one kind is as good as all.
func untypedNames(m *tlspb.CertificateValidationContext) *tlspb.CertificateValidationContext {
	c := proto.Clone(m).(*tlspb.CertificateValidationContext)
	kinds := map[string]int{}
	for _, s := range c.MatchTypedSubjectAltNames {
		kinds[s.Matcher.String()]++
	}
	var typed []*tlspb.SubjectAltNameMatcher
	for _, s := range c.MatchTypedSubjectAltNames {
		name := s.Matcher.String()
		spiffe := strings.HasPrefix(s.Matcher.GetExact()+s.Matcher.GetPrefix(), "spiffe://")
		switch {
		case kinds[name] < 4 && !spiffe: // DNS, URI, e-mail, IP address
			typed = append(typed, s)
		case s.SanType == tlspb.SubjectAltNameMatcher_URI:
			c.MatchSubjectAltNames = append(c.MatchSubjectAltNames, s.Matcher) //nolint:staticcheck // see above
		}
	}
	c.MatchTypedSubjectAltNames = typed
	return c
}

// withoutAgent names files as files: Istio has its agent read them and serve
// them as the secrets "file-cert:CERTIFICATE~KEY" and "file-root:BUNDLE".
func withoutAgent(m *tlspb.CommonTlsContext) *tlspb.CommonTlsContext {
	c := proto.Clone(m).(*tlspb.CommonTlsContext)
	var rest []*tlspb.SdsSecretConfig
	for _, s := range c.TlsCertificateSdsSecretConfigs {
		files, ok := strings.CutPrefix(s.Name, "file-cert:")
		if !ok {
			rest = append(rest, s)
			continue
		}
		cert, key, _ := strings.Cut(files, "~")
		c.TlsCertificates = append(c.TlsCertificates, &tlspb.TlsCertificate{CertificateChain: named(cert), PrivateKey: named(key)})
	}
	c.TlsCertificateSdsSecretConfigs = rest
	combined := c.GetCombinedValidationContext()
	bundle, ok := strings.CutPrefix(combined.GetValidationContextSdsSecretConfig().GetName(), "file-root:")
	if !ok {
		return c
	}
	v := combined.DefaultValidationContext
	if bundle == "system" {
		v.SystemRootCerts = &tlspb.CertificateValidationContext_SystemRootCerts{}
	} else {
		v.TrustedCa = named(bundle)
	}
	c.ValidationContextType = &tlspb.CommonTlsContext_ValidationContext{ValidationContext: v}
	return c
}

func named(file string) *corepb.DataSource {
	return &corepb.DataSource{Specifier: &corepb.DataSource_Filename{Filename: file}}
}
