package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// Trust takes over the trust bundle of a snapshot, before the rest of it and
// whatever becomes of the rest: a root that was withdrawn must not outlive a
// mistake elsewhere. false: another root signs now, a new certificate is due.
func Trust(h *identity.Holder, s *ir.Snapshot) bool {
	for _, secret := range s.Secrets {
		if secret.Name == ir.SecretRootCA {
			roots, err := ca.ParseCertificates(secret.CA)
			return err != nil || h.SetBundle(roots)
		}
	}
	return true
}

// discoveryTLS checks the control plane's certificate: at first by the roots
// that the sidecar was started with, from its first bundle on by that one, so
// that the control plane's root may change under a sidecar that runs.
func discoveryTLS(start *x509.CertPool, name string, h *identity.Holder) *tls.Config {
	return &tls.Config{
		ServerName: name, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it: the roots are not fixed
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the control plane showed no certificate")
			}
			opts := x509.VerifyOptions{DNSName: name, Roots: start, Intermediates: x509.NewCertPool()}
			if pushed := h.Pushed(); pushed != nil {
				opts.Roots = x509.NewCertPool()
				for _, r := range pushed {
					opts.Roots.AddCert(r)
				}
			}
			for _, c := range cs.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(opts)
			return err
		},
	}
}
