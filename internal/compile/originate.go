package compile

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// applyTLS decides how connections to the service are protected: an explicit
// tls block wins (DR23), else auto-mTLS for instances that have a sidecar
// (DR22).
func (b *builder) applyTLS(c *ir.Cluster, s *service, port *servicePort, subsetName string, p policy) {
	mutual := &ir.UpstreamTLS{
		Mode: "ISTIO_MUTUAL", Secret: ir.SecretWorkload, ValidationSecret: ir.SecretRootCA, SANs: b.sans(s),
		SNI: "outbound_." + itoa(int(port.number)) + "_." + subsetName + "_." + s.host, ALPN: port.protocol.meshALPN(),
	}
	b.meshParameters(&mutual.MinVersion, &mutual.CipherSuites)
	if c.HTTP.Protocol == ir.HTTP2 { // by the port, or by h2UpgradePolicy
		mutual.ALPN = ir.MeshALPN(true)
	}
	if p.tls == nil {
		mode, from := b.clientMode(s)
		if !b.mesh.GetEnableAutoMtls().GetValue() || mode == modeDisable || s.external {
			return
		}
		mutual.Origin = from
		if c.Type == ir.OriginalDst {
			for _, w := range s.everywhere() {
				if !w.Sidecar {
					return // the endpoint is not known beforehand: all or none (DR22)
				}
			}
			c.TLS = mutual
			return
		}
		c.AutoTLS = mutual
		return
	}
	mutual.Origin = p.tlsAt
	switch p.tls.Mode {
	case networking.ClientTLSSettings_DISABLE:
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		if p.tls.Sni != "" {
			mutual.SNI = p.tls.Sni
		}
		if len(p.tls.SubjectAltNames) > 0 {
			mutual.SANs = exactly(p.tls.SubjectAltNames)
		}
		c.TLS = mutual
	default:
		if c.TLS = b.originate(s, p); c.TLS != nil && c.HTTP.Protocol == "http2" {
			c.TLS.ALPN = []string{"h2"}
		}
		if c.TLS == nil {
			withoutEndpoints(c) // plaintext instead would betray the user
		}
	}
}

// withoutEndpoints makes a cluster that answers 503 (UH).
func withoutEndpoints(c *ir.Cluster) {
	c.Type, c.LB, c.Endpoints = ir.Static, ir.Random, nil
	c.Hash, c.Warmup, c.ZoneAware, c.LocalityWeighted = nil, nil, nil, false
}

func exactly(values []string) []ir.Match {
	var out []ir.Match
	for _, v := range values {
		out = append(out, ir.Match{Kind: ir.Exact, Value: v})
	}
	return out
}

// originate compiles SIMPLE and MUTUAL; nil if what they need is not there.
// Without sni and subjectAltNames the service's host is the name that is asked
// for and expected.
func (b *builder) originate(s *service, p policy) *ir.UpstreamTLS {
	t := p.tls
	out := &ir.UpstreamTLS{Mode: t.Mode.String(), SNI: t.Sni, SANs: exactly(t.SubjectAltNames), SkipVerify: t.InsecureSkipVerify.GetValue(), Origin: p.tlsAt}
	b.defaultParameters(&out.MinVersion, &out.CipherSuites, &out.Curves)
	if out.SNI == "" && !strings.HasPrefix(s.host, "*") {
		out.SNI = s.host
	}
	if out.SNI == "" && len(out.SANs) == 0 && !out.SkipVerify {
		b.report(resource.Error, &p.from.Meta, p.tlsPath+".sni", "the host "+s.host+" is a wildcard: it does not say which name the certificate must have; requests are answered 503 (UH)", "set sni or subjectAltNames")
		return nil
	}
	if t.CredentialName != "" {
		if !b.clientCredential(p, t.Mode == networking.ClientTLSSettings_MUTUAL) {
			return nil
		}
		out.Secret = "kubernetes://" + t.CredentialName
		return out
	}
	if out.CAFile = t.CaCertificates; out.CAFile == "" {
		out.CAFile = "system"
	}
	out.CRLFile = t.CaCrl
	if t.Mode == networking.ClientTLSSettings_MUTUAL {
		out.CertFile, out.KeyFile = t.ClientCertificate, t.PrivateKey
	}
	return out
}

// clientCredential delivers the Secret that tls.credentialName names, from the
// proxy's own namespace. As in Istio a sidecar gets one only by a rule that
// selects its workload.
func (b *builder) clientCredential(p policy, needCert bool) bool {
	name, path := p.tls.CredentialName, p.tlsPath+".credentialName"
	if b.node.Type != ir.Router && p.from.Spec.WorkloadSelector == nil {
		b.report(resource.Error, &p.from.Meta, path, "sidecars get a credential only from a rule with a workloadSelector; their requests to this host are answered 503 (UH)", "add spec.workloadSelector, or name files")
		return false
	}
	for _, have := range b.out.Secrets {
		if have.Name == "kubernetes://"+name && (have.Cert != nil || !needCert) {
			return true
		}
	}
	for _, k := range b.set.Secrets {
		if k.Name != name || k.Namespace != b.node.Namespace {
			continue
		}
		secret := secretOf(k, "kubernetes://"+name)
		if secret.CA == nil || needCert && (secret.Cert == nil || secret.Key == nil) {
			b.report(resource.Error, &k.Meta, "data", "the Secret lacks ca.crt or (for MUTUAL) tls.crt and tls.key; requests to "+p.from.Spec.Host+" are answered 503 (UH)", "")
			return false
		}
		b.out.Secrets = append(b.out.Secrets, secret)
		return true
	}
	b.report(resource.Error, &p.from.Meta, path, "no Secret "+name+" in namespace "+b.node.Namespace+"; requests to this host are answered 503 (UH)", "")
	return false
}
