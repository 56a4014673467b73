package opa

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/authz"
)

// A configuration file says what --set would, and names bundles; what is not
// supported is refused by name.
func TestConfigFile(t *testing.T) {
	for _, tc := range []struct {
		text, err string
		want      Options
	}{
		{text: "decision_logs: {console: true}\nplugins: {envoy_ext_authz_grpc: {addr: ':9292', path: shop/allow}}\nbundles: {b: {resource: 'file:///b.tar.gz'}, a: {resource: 'file:///a'}}",
			want: Options{Addr: ":8181", GRPCAddr: ":9292", Path: "shop/allow", Console: true, Paths: []string{"/a", "/b.tar.gz"}}},
		{text: "services: {acme: {url: https://example.com}}", err: "services.acme.url"},
		{text: "bundles: {a: {service: acme, resource: a}}", err: "bundles.a."},
		{text: "decision_logs: {service: acme}", err: "decision_logs.service"},
		{text: "- a list", err: "cannot unmarshal"},
	} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ParseArgs([]string{"run", "--server", "--config-file=" + path})
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v, want %q", tc.text, err, tc.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v %v", tc.text, got, err)
		}
	}
}

// A bundle's policy and data decide like files; a broken one keeps the last good.
func TestBundleFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	write := func(rule string) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		for name, text := range map[string]string{"/p.rego": "package envoy.authz\n" + rule, "/shop/data.json": `{"open": true}`} {
			w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o600})
			w.Write([]byte(text))
		}
		w.Close()
		z.Close()
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := NewEngine("")
	allowed := func() bool {
		v := e.check(t.Context(), nil, &authz.External{HTTP: true, Method: "GET", Path: "/"})
		if v.Err != nil {
			t.Fatal(v.Err)
		}
		return v.Allow
	}
	write("default allow := false\nallow if data.shop.open")
	if err := e.Load([]string{path}); err != nil || !allowed() {
		t.Fatal(err)
	}
	write("allow := := false")
	if err := e.Load([]string{path}); err == nil || !allowed() {
		t.Errorf("a broken bundle: %v", err)
	}
	write("default allow := false")
	if err := e.Load([]string{path}); err != nil || allowed() {
		t.Errorf("a new bundle: %v", err)
	}
}
