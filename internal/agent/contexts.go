package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/extauthz"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// Rego makes deciders for providers whose policy is evaluated in the sidecar. A
// build without it takes no configuration that has them.
type Rego interface {
	Provider(f *ir.ExtAuthz) (authz.Provider, error)
}

// ProxyOptions are the hooks through which a proxy uses a workload's identity
// and external authorizers; the caller fills in the rest. rego may be nil.
func ProxyOptions(h *identity.Holder, rego Rego) proxy.Options {
	return proxy.Options{TLS: &contexts{holder: h}, Serial: h.Serial, Authorizer: func(f *ir.ExtAuthz, dial func(context.Context) (net.Conn, error)) (authz.Provider, error) {
		switch {
		case f.Rego == nil:
			return extauthz.New(extauthz.Options{Name: f.Provider, Authority: f.Authority, Dial: dial, PackAsBytes: f.PackAsBytes})
		case rego == nil:
			return nil, errors.New("its Rego is to be decided in the sidecar, and this one is built without: run it as \"tulle proxy\"")
		}
		return rego.Provider(f)
	}}
}

// contexts makes TLS configurations from the workload's identity (proxy.TLS).
type contexts struct{ holder *identity.Holder }

// ServerTLS implements proxy.TLS.
func (c *contexts) ServerTLS(d *ir.DownstreamTLS, secrets func(string) *ir.Secret) (*tls.Config, error) {
	min, err := identity.Version(d.MinVersion)
	if err != nil {
		return nil, err
	}
	max, err := identity.Version(d.MaxVersion)
	if err != nil {
		return nil, err
	}
	suites, curves, err := parameters(d.CipherSuites, d.Curves)
	if err != nil {
		return nil, err
	}
	if d.Secret == ir.SecretWorkload {
		return c.holder.Server(identity.ServerOptions{RequireClientCert: d.RequireClientCert, Accept: accept(d.SANs), ALPN: d.ALPN, MinVersion: min, MaxVersion: max,
			CipherSuites: suites, Curves: curves}), nil
	}
	t := identity.Termination{ALPN: d.ALPN, MinVersion: min, MaxVersion: max, Require: d.RequireClientCert, Optional: d.OptionalClientCert,
		CAFile: d.CAFile, CRLFile: d.CRLFile, Accept: accept(d.SANs), SPKI: d.SPKI, Hashes: d.Hashes,
		CipherSuites: suites, Curves: curves}
	for _, name := range append([]string{d.Secret}, d.MoreSecrets...) {
		if name == "" {
			continue
		}
		s := secrets(name)
		if s == nil {
			return nil, fmt.Errorf("secret %s has not arrived", name)
		}
		t.Certificates = append(t.Certificates, identity.ServerCertificate{Cert: s.Cert, Key: s.Key, Staple: s.Staple})
	}
	for _, f := range d.Files {
		t.Certificates = append(t.Certificates, identity.ServerCertificate{CertFile: f.Cert, KeyFile: f.Key})
	}
	if d.ValidationSecret != "" {
		s := secrets(d.ValidationSecret)
		if s == nil {
			return nil, fmt.Errorf("secret %s has not arrived", d.ValidationSecret)
		}
		t.CA, t.CRL = s.CA, s.CRL
	}
	conf, err := t.Config()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Secret, err)
	}
	return conf, nil
}

// ClientTLS implements proxy.TLS.
func (c *contexts) ClientTLS(u *ir.UpstreamTLS, secrets func(string) *ir.Secret) (*tls.Config, error) {
	min, err := identity.Version(u.MinVersion)
	if err != nil {
		return nil, err
	}
	suites, curves, err := parameters(u.CipherSuites, u.Curves)
	if err != nil {
		return nil, err
	}
	if u.Mode == "ISTIO_MUTUAL" {
		return c.holder.Client(identity.ClientOptions{SNI: u.SNI, Accept: accept(u.SANs), ALPN: u.ALPN, MinVersion: min, CipherSuites: suites, Curves: curves}), nil
	}
	o := identity.Origination{CertFile: u.CertFile, KeyFile: u.KeyFile, CAFile: u.CAFile, CRLFile: u.CRLFile,
		SNI: u.SNI, Accept: accept(u.SANs), SkipVerify: u.SkipVerify, ALPN: u.ALPN,
		MinVersion: min, CipherSuites: suites, Curves: curves}
	if u.Secret != "" {
		s := secrets(u.Secret)
		if s == nil {
			return nil, fmt.Errorf("secret %s has not arrived", u.Secret)
		}
		o.CA, o.CRL = s.CA, s.CRL
		if u.Mode == "MUTUAL" {
			o.Cert, o.Key = s.Cert, s.Key
		}
	}
	return o.Config(), nil
}

// parameters finds cipher suites and curves by the names that Envoy gives them.
func parameters(ciphers, names []string) (suites []uint16, curves []tls.CurveID, err error) {
	for _, name := range ciphers {
		id, ok := ir.CipherSuite(name)
		if !ok {
			return nil, nil, fmt.Errorf("cipher suite %s is not known", name)
		}
		suites = append(suites, id)
	}
	for _, name := range names {
		id, ok := ir.Curve(name)
		if !ok {
			return nil, nil, fmt.Errorf("curve %s is not known", name)
		}
		curves = append(curves, id)
	}
	return suites, curves, nil
}

// accept compiles SAN matchers; nil accepts whatever the trust bundle vouches
// for.
func accept(sans []ir.Match) func(string) bool {
	if len(sans) == 0 {
		return nil
	}
	return func(uri string) bool {
		for _, m := range sans {
			switch m.Kind {
			case ir.Exact:
				if uri == m.Value {
					return true
				}
			case ir.Prefix:
				if strings.HasPrefix(uri, m.Value) {
					return true
				}
			case ir.Suffix:
				if strings.HasSuffix(uri, m.Value) {
					return true
				}
			}
		}
		return false
	}
}
