package compile

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"

	meshv1 "istio.io/api/mesh/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// trustDomains are the mesh's own, first, and the aliases that its peers may
// still carry (MeshConfig.trustDomainAliases): an identity of one is the same
// identity in all.
func (x *Index) trustDomains() []string {
	out := []string{x.TrustDomain()}
	for _, alias := range x.mesh.TrustDomainAliases {
		if !slices.Contains(out, alias) {
			out = append(out, alias)
		}
	}
	return out
}

// expandPrincipals writes an AuthorizationPolicy's principals for every trust
// domain that means this mesh, as Istio does: what names the mesh's own, an alias
// or "cluster.local" (a pointer to the mesh's own) holds in all of them. Values
// without a trust domain of their own ("*/ns/x/sa/y", "sa/y") stay.
func (x *Index) expandPrincipals(values []string) []string {
	var out []string
	for _, v := range values {
		td, rest, _ := strings.Cut(v, "/")
		mine := func(known string) bool {
			suffix, wild := strings.CutPrefix(td, "*")
			return known == td || wild && strings.HasSuffix(known, suffix)
		}
		if td == "*" || strings.Count(rest, "/") != 3 || td != clusterDomain && !slices.ContainsFunc(x.trustDomains(), mine) {
			out = append(out, v)
			continue
		}
		for _, known := range x.trustDomains() {
			expanded := known + "/" + rest
			if mine(known) {
				expanded = v
			}
			if !slices.Contains(out, expanded) {
				out = append(out, expanded)
			}
		}
	}
	return out
}

// expandTrustDomains likewise for an AuthorizationPolicy's trust domains.
func (x *Index) expandTrustDomains(values []string) []string {
	var out []string
	for _, v := range values {
		all := []string{v}
		if slices.Contains(x.trustDomains(), v) {
			all = x.trustDomains()
		}
		for _, td := range all {
			if !slices.Contains(out, td) {
				out = append(out, td)
			}
		}
	}
	return out
}

// expandIdentities adds to SPIFFE IDs those under the mesh's other trust
// domains: a workload shows one of them until its certificate is renewed.
func (x *Index) expandIdentities(uris []string) []string {
	out := slices.Clone(uris)
	for _, uri := range uris {
		td, rest, ok := strings.Cut(strings.TrimPrefix(uri, "spiffe://"), "/")
		if !ok || !strings.HasPrefix(uri, "spiffe://") || !slices.Contains(x.trustDomains(), td) {
			continue
		}
		for _, other := range x.trustDomains() {
			out = append(out, "spiffe://"+other+"/"+rest)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// trustBundle delivers what peers' certificates must chain to: the authority's
// roots, and those that MeshConfig.caCertificates adds. A proxy hears of a new
// root this way before anything is signed with it.
func (b *builder) trustBundle() {
	if len(b.set.Roots) == 0 {
		return
	}
	bundle := slices.Clone(b.set.Roots)
	for i, c := range b.mesh.CaCertificates {
		if b.elsewhere(c) { // refused: in this mesh's bundle it would vouch for everybody
			continue
		}
		bundle = append(bundle, b.meshRoots(c.GetPem(), at("data.mesh.caCertificates", i, "pem"))...)
	}
	b.out.Secrets = append(b.out.Secrets, &ir.Secret{Name: ir.SecretRootCA, CA: bundle})
}

// meshRoots are the certificates of a PEM text, written anew so that text
// around them goes nowhere.
func (b *builder) meshRoots(text, path string) []byte {
	var out []byte
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && c.IsCA {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	if text != "" && out == nil {
		b.report(resource.Error, &b.set.MeshFrom, path, "holds no certificate of an authority; nothing is trusted because of it", "")
	}
	return out
}

// elsewhere: a root that may vouch only for some, which one bundle cannot say.
func (x *Index) elsewhere(c *meshv1.MeshConfig_CertificateData) bool {
	return len(c.CertSigners) > 0 || slices.ContainsFunc(c.TrustDomains, func(td string) bool { return !slices.Contains(x.trustDomains(), td) })
}

// checkTrust refuses what caCertificates may say and this mesh does not do.
func (x *Index) checkTrust() {
	x.refuse(&x.set.MeshFrom, map[string]bool{
		"data.mesh.ca": x.mesh.Ca != nil, // another authority than the mesh's own
		//lint:ignore SA1019 deprecated, and in people's files
		"data.mesh.certificates": len(x.mesh.Certificates) > 0,
	})
	for i, c := range x.mesh.CaCertificates {
		x.refuse(&x.set.MeshFrom, map[string]bool{
			at("data.mesh.caCertificates", i, "spiffeBundleUrl"): c.GetSpiffeBundleUrl() != "",
			at("data.mesh.caCertificates", i, "certSigners"):     len(c.CertSigners) > 0,
			at("data.mesh.caCertificates", i, "trustDomains"):    len(c.CertSigners) == 0 && x.elsewhere(c),
		})
	}
}
