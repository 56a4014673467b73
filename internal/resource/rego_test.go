package resource

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"testing"
)

// A bundle in binaryData is a policy like one in files.
func TestRegoBundle(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"/shop/gate.rego": "package envoy.authz\ndefault allow := false\nallow if data.shop.open", "/shop/data.json": `{"open": true}`, "/.manifest": `{"roots": ["shop", "envoy"]}`} {
		w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o600})
		w.Write([]byte(text))
	}
	w.Close()
	z.Close()
	for _, tc := range []struct{ bundle, data string }{
		{base64.StdEncoding.EncodeToString(b.Bytes()), `{"shop":{"open":true}}`},
		{base64.StdEncoding.EncodeToString([]byte("no bundle")), ""},
	} {
		set, problems := Parse([]File{{Name: "f.yaml", Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: gate, namespace: shop, annotations: {tulle.dev/rego-provider: opa}}\nbinaryData:\n  gate.tar.gz: " + tc.bundle + "\n")}})
		if tc.data == "" {
			if len(problems) == 0 || len(set.BrokenRego) != 1 || len(set.ConfigMaps) != 0 {
				t.Errorf("a broken bundle: %v", problems)
			}
			continue
		}
		if len(problems) > 0 || len(set.ConfigMaps) != 1 {
			t.Fatal(problems)
		}
		if r := RegoOf(set.ConfigMaps[0]); r.Data != tc.data || len(r.Modules) != 1 {
			t.Errorf("policy %+v", r)
		}
	}
}
