package proxy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// clientCertDetails describes the peer's certificate as Envoy does in
// x-forwarded-client-cert: who was asked (By, where our own certificate has a
// URI), the hash, the certificate itself where that is asked for, subject, URIs
// and DNS names. Made once per connection.
func clientCertDetails(c *ir.FilterChain, principal string, leaf *x509.Certificate) string {
	var out strings.Builder
	if c.TLS.Secret == ir.SecretWorkload {
		out.WriteString("By=" + principal + ";")
	}
	sum := sha256.Sum256(leaf.Raw)
	out.WriteString("Hash=" + hex.EncodeToString(sum[:]))
	if c.HTTP.WholeClientCert {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
		out.WriteString(`;Cert="` + strings.ReplaceAll(url.QueryEscape(string(text)), "+", "%20") + `"`)
	}
	out.WriteString(`;Subject="` + quoted(leaf.Subject.String()) + `"`)
	if len(leaf.URIs) == 0 {
		out.WriteString(";URI=")
	}
	for _, u := range leaf.URIs {
		out.WriteString(";URI=" + plain(u.String()))
	}
	for _, name := range leaf.DNSNames {
		out.WriteString(";DNS=" + plain(name))
	}
	return out.String()
}

// quoted is text between quotes; what could end them is escaped, and what no
// header may hold is left out.
func quoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(s))
}

// plain is a value without quotes: one that could pass for more than a value
// is put between them.
func plain(s string) string {
	if strings.ContainsAny(s, `,;="`) {
		return `"` + quoted(s) + `"`
	}
	return printable(s)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}
