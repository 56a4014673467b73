package compile

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// serverTLS compiles how a server (of a Gateway, or an ingress listener of a
// Sidecar) presents itself and whom it accepts; path is its tls block in m. nil:
// something it needs is missing. Then it is not served: a handshake that fails
// is better than one that promises less than the user asked for.
func (b *builder) serverTLS(m *resource.Meta, path string, t *networking.ServerTLSSettings, alpn []string) *ir.DownstreamTLS {
	if t.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL {
		out := b.inboundTLS(servedALPN...)
		if len(t.SubjectAltNames) > 0 {
			out.SANs = exactly(t.SubjectAltNames)
		}
		return b.tlsParameters(m, path, t, out)
	}
	out := &ir.DownstreamTLS{ALPN: alpn}
	if !b.serverCertificates(m, path, t, out) {
		return nil
	}
	switch t.Mode {
	case networking.ServerTLSSettings_MUTUAL:
		out.RequireClientCert = true
	case networking.ServerTLSSettings_OPTIONAL_MUTUAL:
		out.OptionalClientCert = true
	}
	if (out.RequireClientCert || out.OptionalClientCert) && !b.clientBundle(m, path, t, out) {
		return nil
	}
	for _, n := range t.SubjectAltNames {
		out.SANs = append(out.SANs, ir.Match{Kind: ir.Exact, Value: n})
	}
	out.SPKI, out.Hashes = t.VerifyCertificateSpki, t.VerifyCertificateHash
	return b.tlsParameters(m, path, t, out)
}

// tlsParameters adds versions and cipher suites.
func (b *builder) tlsParameters(m *resource.Meta, path string, t *networking.ServerTLSSettings, out *ir.DownstreamTLS) *ir.DownstreamTLS {
	version := map[networking.ServerTLSSettings_TLSProtocol]string{networking.ServerTLSSettings_TLSV1_2: "1.2", networking.ServerTLSSettings_TLSV1_3: "1.3"}
	old := func(v networking.ServerTLSSettings_TLSProtocol) bool {
		return v == networking.ServerTLSSettings_TLSV1_0 || v == networking.ServerTLSSettings_TLSV1_1
	}
	if old(t.MinProtocolVersion) {
		b.report(resource.Warning, m, path+".minProtocolVersion", "TLS 1.0 and 1.1 are not offered (RFC 8996); the least is 1.2", "")
	}
	if old(t.MaxProtocolVersion) {
		b.report(resource.Error, m, path+".maxProtocolVersion", "TLS 1.0 and 1.1 are not offered (RFC 8996); the server is not served", "")
		return nil
	}
	out.MinVersion, out.MaxVersion = version[t.MinProtocolVersion], version[t.MaxProtocolVersion]
	for i, name := range t.CipherSuites {
		if _, ok := ir.CipherSuite(name); !ok {
			b.report(resource.Error, m, at(path+".cipherSuites", i), name+" is not a cipher suite we have; it is left out", "")
			continue
		}
		out.CipherSuites = append(out.CipherSuites, name)
	}
	if len(t.CipherSuites) > 0 && len(out.CipherSuites) == 0 {
		return nil // any suite at all would be more than was asked for
	}
	b.defaultParameters(&out.MinVersion, &out.CipherSuites, &out.Curves)
	return out
}

// serverCertificates finds the certificates: Secrets by name, or files.
func (b *builder) serverCertificates(m *resource.Meta, path string, t *networking.ServerTLSSettings, out *ir.DownstreamTLS) bool {
	names := t.CredentialNames
	field := func(i int) string { return at(path+".credentialNames", i) }
	if t.CredentialName != "" {
		names, field = []string{t.CredentialName}, func(int) string { return path + ".credentialName" }
	}
	for i, name := range names {
		secret := b.addCredential(m, field(i), name, credentialCert)
		switch {
		case secret == "":
			return false
		case out.Secret == "":
			out.Secret = secret
		default:
			out.MoreSecrets = append(out.MoreSecrets, secret)
		}
	}
	if len(names) > 0 {
		return true
	}
	for _, c := range t.TlsCertificates {
		out.Files = append(out.Files, ir.CertFiles{Cert: c.ServerCertificate, Key: c.PrivateKey})
	}
	if len(out.Files) == 0 && t.ServerCertificate != "" {
		out.Files = []ir.CertFiles{{Cert: t.ServerCertificate, Key: t.PrivateKey}}
	}
	if len(out.Files) == 0 {
		b.report(resource.Error, m, path, "no certificate is named; the server is not served", "credentialName names a Secret with tls.crt and tls.key")
		return false
	}
	return true
}

// clientBundle finds what clients must chain to: caCertCredentialName, the
// credential itself or its "-cacert" companion, or a file.
func (b *builder) clientBundle(m *resource.Meta, path string, t *networking.ServerTLSSettings, out *ir.DownstreamTLS) bool {
	switch {
	case t.CaCertCredentialName != "":
		out.ValidationSecret = b.addCredential(m, path+".caCertCredentialName", t.CaCertCredentialName, credentialBundle)
		return out.ValidationSecret != ""
	case out.Secret != "":
		name := out.Secret[strings.LastIndexByte(out.Secret, '/')+1:]
		if b.findSecret(m, name+"-cacert") != nil {
			name += "-cacert"
		}
		out.ValidationSecret = b.addCredential(m, path+".credentialName", name, credentialBundle)
		return out.ValidationSecret != ""
	}
	out.CAFile, out.CRLFile = t.CaCertificates, t.CaCrl
	if out.CAFile == "" && len(t.VerifyCertificateHash)+len(t.VerifyCertificateSpki) == 0 {
		b.report(resource.Error, m, path+".caCertificates", "clients' certificates need a bundle to chain to; the server is not served", "")
		return false
	}
	return true
}

// credential is a Secret's name on the wire (Istio's SDS): with its namespace
// where that is not the proxy's, because several may name theirs alike.
func (b *builder) credential(k *resource.Secret) string {
	if k.Namespace == b.node.Namespace {
		return "kubernetes://" + k.Name
	}
	return "kubernetes://" + k.Namespace + "/" + k.Name
}

// What is needed of a credential.
const (
	credentialCert = iota
	credentialBundle
)

// findSecret looks in the gateway's namespace, then beside m.
func (b *builder) findSecret(m *resource.Meta, name string) *resource.Secret {
	var found *resource.Secret
	for _, k := range b.set.Secrets {
		if k.Name == name && k.Namespace == b.node.Namespace {
			return k
		}
		if k.Name == name && k.Namespace == m.Namespace {
			found = k
		}
	}
	return found
}

// addCredential delivers a Secret to the proxy and returns its name on the wire;
// "": it is not there, or lacks what is needed of it.
func (b *builder) addCredential(m *resource.Meta, path, name string, need int) string {
	k := b.findSecret(m, name)
	if k == nil {
		b.report(resource.Error, m, path, "no Secret "+name+"; the server is not served", "create it in the gateway's namespace or beside the "+m.Kind)
		return ""
	}
	secret := secretOf(k, b.credential(k))
	switch {
	case need == credentialCert && (secret.Cert == nil || secret.Key == nil):
		b.report(resource.Error, &k.Meta, "data", "the Secret lacks tls.crt or tls.key; the server is not served", "")
		return ""
	case need == credentialBundle && secret.CA == nil:
		b.report(resource.Error, &k.Meta, "data", "the Secret lacks ca.crt, which mutual TLS needs; the server is not served", "")
		return ""
	}
	for _, have := range b.out.Secrets {
		if have.Name == secret.Name {
			return secret.Name
		}
	}
	b.out.Secrets = append(b.out.Secrets, secret)
	return secret.Name
}

// secretOf is a Secret with the keys that Istio knows, under the name by which
// the proxy asks for it. As in Kubernetes, stringData counts before data.
func secretOf(k *resource.Secret, name string) *ir.Secret {
	pick := func(keys ...string) []byte {
		for _, key := range keys {
			if v, ok := k.Spec.StringData[key]; ok {
				return []byte(v)
			}
			if v, ok := k.Spec.Data[key]; ok {
				return v
			}
		}
		return nil
	}
	return &ir.Secret{Name: name, Cert: pick("tls.crt", "cert"), Key: pick("tls.key", "key"), CA: pick("ca.crt", "cacert"),
		CRL: pick("ca.crl", "crl"), Staple: pick("tls.ocsp-staple"), Origin: k.Origin()}
}
