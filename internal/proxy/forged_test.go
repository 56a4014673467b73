package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
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

// Fields that the codec takes out of a request are there for policies all the
// same.
func TestPoliciesSeeFraming(t *testing.T) {
	refuse := func(name string, value ir.Match) ir.Policy {
		return ir.Policy{Name: name, Principal: &ir.Expr{Op: ir.Any}, Permission: &ir.Expr{Op: ir.Leaf, Attr: ir.AttrHeader, Key: name, Value: value}}
	}
	m := newMesh(t, http.HandlerFunc(echo), func(m *mesh) {
		m.snapB.Listeners[0].Chains[0].Filters = []ir.Filter{{RBAC: &ir.RBAC{Action: ir.Deny, Policies: []ir.Policy{
			refuse("upgrade", ir.Match{Kind: ir.Exact, Value: "websocket"}), refuse("content-length", ir.Match{Kind: ir.Exact, Value: "3"})}}}}
		for _, s := range []*ir.Snapshot{m.snapA, m.snapB} {
			s.Listeners[0].Chains[0].HTTP.Upgrades = []string{"websocket"}
		}
	})
	for _, tc := range []struct {
		name, method, body string
		header             http.Header
		want               int
	}{
		{"upgrade", "GET", "", http.Header{"Connection": {"upgrade"}, "Upgrade": {"websocket"}}, 403},
		{"length", "POST", "abc", nil, 403},
		{"another length", "POST", "abcd", nil, 200},
		{"neither", "GET", "", nil, 200},
	} {
		req, _ := http.NewRequest(tc.method, m.url+"/", strings.NewReader(tc.body))
		if tc.header != nil {
			req.Header = tc.header
		}
		if resp, _ := m.do(req); resp.StatusCode != tc.want {
			t.Errorf("%s: %s", tc.name, resp.Status)
		}
	}
}
