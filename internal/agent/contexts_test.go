package agent

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// A sidecar built without Rego takes no configuration that needs it, and says
// what to run instead.
func TestSidecarWithoutRego(t *testing.T) {
	o := ProxyOptions(identity.NewHolder("cluster.local"), nil)
	p, err := o.Authorizer(&ir.ExtAuthz{Provider: "gate", Rego: &ir.Rego{Name: "gate"}}, nil)
	if err == nil || !strings.Contains(err.Error(), `"tulle proxy"`) {
		t.Errorf("%v %v", p, err)
	}
}

// A client's Secret brings its revocation list along, and a list that cannot be
// read is no reason to accept a certificate.
func TestClientSecretHasItsRevocationList(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for list, want := range map[string]string{"": "", "no list": "revocation list"} {
		conf, err := (&contexts{}).ClientTLS(&ir.UpstreamTLS{Mode: "SIMPLE", SNI: "example.com", Secret: "kubernetes://db"},
			func(string) *ir.Secret { return &ir.Secret{CA: root, CRL: []byte(list)} })
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.Dial("tcp", server.Listener.Addr().String(), conf)
		if err == nil {
			c.Close()
		}
		if fmt.Sprint(err) != "<nil>" && want == "" || want != "" && !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("with %q: %v, want %q", list, err, want)
		}
	}
}
