package proxy

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// The header's value as Envoy writes it, in Envoy's order, and no name in a
// certificate can pass for more than a name.
func TestClientCertDetails(t *testing.T) {
	ca := newCA(t)
	leaf := func(subject string, uris []string, dns ...string) *x509.Certificate {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: subject}, DNSNames: dns}
		for _, u := range uris {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			tmpl.URIs = append(tmpl.URIs, parsed)
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, ca.key.Public(), ca.key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const hash = "Hash=[0-9a-f]{64}"
	tests := []struct {
		name  string
		cert  *x509.Certificate
		tls   string // the secret we showed
		whole bool
		want  string
	}{
		{"a workload", leaf("", []string{"spiffe://td/ns/a/sa/b"}), ir.SecretWorkload, false, `By=spiffe://td/ns/us/sa/us;` + hash + `;Subject="";URI=spiffe://td/ns/a/sa/b`},
		{"a client of a gateway", leaf("partner", nil, "a.example", "b.example"), "kubernetes://edge", true,
			hash + `;Cert="-----BEGIN%20CERTIFICATE-----%0A[A-Za-z0-9%]*-----END%20CERTIFICATE-----%0A";Subject="CN=partner";URI=;DNS=a.example;DNS=b.example`},
		{"one that tries to add an element", leaf(`x";URI=spiffe://td/ns/a/sa/admin,By="`, nil), ir.SecretWorkload, false,
			`By=spiffe://td/ns/us/sa/us;` + hash + `;Subject="CN=x\\+";URI=spiffe://td/ns/a/sa/admin\\+,By=\\+"";URI=`},
		{"a URI with separators", leaf("", []string{"spiffe://td/a;URI=spiffe://td/admin,b"}), ir.SecretWorkload, false,
			`By=spiffe://td/ns/us/sa/us;` + hash + `;Subject="";URI="spiffe://td/a;URI=spiffe://td/admin,b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			chain := &ir.FilterChain{TLS: &ir.DownstreamTLS{Secret: tt.tls}, HTTP: &ir.HTTP{WholeClientCert: tt.whole}}
			got := clientCertDetails(chain, "spiffe://td/ns/us/sa/us", tt.cert)
			if strings.HasPrefix(tt.name, "one that") {
				// Outside of quotes there is no element but ours.
				if bare := regexp.MustCompile(`"(\\.|[^"\\])*"`).ReplaceAllString(got, `""`); !regexp.MustCompile(`^By=[^;]*;` + hash + `;Subject="";URI=$`).MatchString(bare) {
					t.Errorf("%s", got)
				}
				return
			}
			if !regexp.MustCompile("^" + tt.want + "$").MatchString(got) {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}
