package proxy

import (
	"net/http"
	"testing"
)

// What only proxies say to each other does not reach an application, also not
// behind a field of the same name that is empty.
func TestOwnHeadersBehindEmptyOnes(t *testing.T) {
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{peerHeader, debugHeader} {
			if v := r.Header.Values(name); len(v) > 0 {
				t.Errorf("the application got %s: %q", name, v)
			}
		}
	}), func(m *mesh) {
		m.options = func(o *Options) { o.DebugKey = [32]byte{1} }
	})
	res, _ := m.get("/", func(r *http.Request) {
		for _, name := range []string{peerHeader, debugHeader} {
			r.Header[http.CanonicalHeaderKey(name)] = []string{"", "forged;shop;a;b;c;d;e"}
		}
	})
	if res.StatusCode != 200 {
		t.Error(res.Status)
	}
}
