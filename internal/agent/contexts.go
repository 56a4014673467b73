package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/extauthz"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// ProxyOptions are the hooks through which a proxy uses a workload's identity
// and external authorizers; the caller fills in the rest.
func ProxyOptions(h *identity.Holder) proxy.Options {
	return proxy.Options{TLS: &contexts{holder: h}, Authorizer: authorizer}
}

// contexts makes TLS configurations from the workload's identity (proxy.TLS).
type contexts struct{ holder *identity.Holder }

// ServerTLS implements proxy.TLS.
func (c *contexts) ServerTLS(d *ir.DownstreamTLS, secrets func(string) *ir.Secret) (*tls.Config, error) {
	o := identity.ServerOptions{RequireClientCert: d.RequireClientCert, Accept: accept(d.SANs), ALPN: d.ALPN}
	var err error
	if o.MinVersion, err = identity.Version(d.MinVersion); err != nil {
		return nil, err
	}
	if o.MaxVersion, err = identity.Version(d.MaxVersion); err != nil {
		return nil, err
	}
	if d.Secret == ir.SecretWorkload {
		return c.holder.Server(o), nil
	}
	s := secrets(d.Secret)
	if s == nil {
		return nil, fmt.Errorf("secret %s has not arrived", d.Secret)
	}
	conf, err := identity.FromPEM(s.Cert, s.Key, s.CA, o)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", d.Secret, err)
	}
	return conf, nil
}

// ClientTLS implements proxy.TLS.
func (c *contexts) ClientTLS(u *ir.UpstreamTLS, secrets func(string) *ir.Secret) (*tls.Config, error) {
	if u.Mode == "ISTIO_MUTUAL" {
		return c.holder.Client(identity.ClientOptions{SNI: u.SNI, Accept: accept(u.SANs), ALPN: u.ALPN}), nil
	}
	o := identity.Origination{CertFile: u.CertFile, KeyFile: u.KeyFile, CAFile: u.CAFile, CRLFile: u.CRLFile,
		SNI: u.SNI, Accept: accept(u.SANs), SkipVerify: u.SkipVerify, ALPN: u.ALPN}
	if u.Secret != "" {
		s := secrets(u.Secret)
		if s == nil {
			return nil, fmt.Errorf("secret %s has not arrived", u.Secret)
		}
		if o.CA = s.CA; u.Mode == "MUTUAL" {
			o.Cert, o.Key = s.Cert, s.Key
		}
	}
	return o.Config(), nil
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

// authorizer makes the client of a CUSTOM provider (proxy.Options.Authorizer).
func authorizer(f *ir.ExtAuthz, dial func(context.Context) (net.Conn, error)) (authz.Provider, error) {
	return extauthz.New(extauthz.Options{Name: f.Provider, Dial: dial, PackAsBytes: f.PackAsBytes})
}
