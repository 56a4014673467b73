package compile

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// The trust bundle that proxies get is the authority's and, behind it, what
// MeshConfig.caCertificates adds; without the authority's there is none, for
// the rest alone would shut everybody out.
func TestTrustBundle(t *testing.T) {
	const extra = `-----BEGIN CERTIFICATE-----
MIIBhjCCASugAwIBAgIUTAmL6Y5aM03+C/1JsU4TE80Y4NswCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMYW5vdGhlciBtZXNoMCAXDTI2MTEyNDIzMzg1MVoYDzIxMjYx
MDMxMjMzODUxWjAXMRUwEwYDVQQDDAxhbm90aGVyIG1lc2gwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAS17nzxRR/G6C4Djk+ZQ3nZRdvsUwZOwUFzLbHWPwW+5V5J
dRrKJe2UXSi0cKSyQHMdh6npFgFgHQEDgQL/sSjgo1MwUTAdBgNVHQ4EFgQUz24a
Bmwso0zf/pA0iyzbdlOwv10wHwYDVR0jBBgwFoAUz24aBmwso0zf/pA0iyzbdlOw
v10wDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAmPRiShPJNx8U
kN6IdHLqBmwAB8DTeZzm/fdOTA1GbmMCIQCfOdysy+mipxUKkUux85AH68Hw4sy9
VNG2GthrG8loNw==
-----END CERTIFICATE-----
`
	mesh := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    caCertificates:\n    - pem: |\n        text before it\n" +
		"        " + strings.ReplaceAll(strings.TrimSpace(extra), "\n", "\n        ") + "\n    - pem: nothing\n" +
		"    - trustDomains: [elsewhere]\n      pem: |\n        " + strings.ReplaceAll(strings.TrimSpace(extra), "\n", "\n        ") + "\n"
	set, problems := resource.Parse([]resource.File{{Name: "mesh.yaml", Data: []byte(mesh)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	node := ir.Node{Type: ir.Sidecar, Name: "web-0", Namespace: "shop"}
	if s := Prepare(set).Snapshot(node).Secrets; len(s) > 0 {
		t.Errorf("without an authority: %v", s)
	}
	set.Roots = []byte("the authority's\n")
	x := Prepare(set)
	secrets := x.Snapshot(node).Secrets
	if len(secrets) != 1 || secrets[0].Name != ir.SecretRootCA || string(secrets[0].CA) != "the authority's\n"+extra {
		t.Errorf("secrets %v", secrets)
	}
	said := ""
	for _, p := range x.Problems() {
		said += p.String() + "\n"
	}
	for _, want := range []string{"data.mesh.caCertificates[1].pem: holds no certificate of an authority", "data.mesh.caCertificates[2].trustDomains: not supported yet"} {
		if !strings.Contains(said, want) {
			t.Errorf("problems %s: want %s", said, want)
		}
	}
}
