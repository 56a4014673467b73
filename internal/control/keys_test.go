package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
)

// once is a source that speaks one time.
type once struct{ update source.Update }

func (once) Name() string { return "once" }

func (o once) Run(ctx context.Context, tell func(source.Update)) error {
	tell(o.update)
	<-ctx.Done()
	return nil
}

// keys answers after a delay, or not at all.
type keys struct {
	after time.Duration
	down  atomic.Bool
}

const document = `{"keys":[{"use":"sig","kty":"EC","kid":"k1","crv":"P-256","x":"QFLO2rQrYLx9bpb8aPJWNUBQEdM2W9CMYT6Dj6eN90o","y":"XI1IByGFSBSwCIYNlDq742MFhCx-ux8Djb9TTplt97s"}]}`

func (k *keys) RoundTrip(req *http.Request) (*http.Response, error) {
	timer := time.NewTimer(k.after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if k.down.Load() {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(document)), Request: req}, nil
}

const protected = `apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: worker, namespace: shop}
spec: {jwtRules: [{issuer: a, jwksUri: "https://a/keys"}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: shop}
spec: {selector: {app: gateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
`

// The first configuration with a rule has the rule's keys if they come within
// a second; it does not wait longer for them, and takes them when they come.
func TestKeysComeWithTheirRule(t *testing.T) {
	for _, tc := range []struct {
		name  string
		keys  *keys
		down  bool
		first time.Duration // when the first state is there
		has   bool          // its rule has keys
		later time.Duration // when the keys are there
	}{
		{name: "at once", keys: &keys{}, first: debounceQuiet, has: true, later: debounceQuiet},
		{name: "soon", keys: &keys{after: 500 * time.Millisecond}, first: 500*time.Millisecond + debounceQuiet, has: true, later: time.Second},
		{name: "late", keys: &keys{after: 3 * time.Second}, first: debounceMax, has: false, later: 3*time.Second + debounceQuiet},
		{name: "down", keys: &keys{}, down: true, first: debounceQuiet, has: false, later: 10 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.keys.down.Store(tc.down)
				set, problems := resource.Parse([]resource.File{{Name: "in.yaml", Data: []byte(protected)}})
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				c := New(Options{Sources: []source.Source{once{source.Update{Set: set}}}, Fetch: &http.Client{Transport: tc.keys}, Log: slog.New(slog.DiscardHandler)})
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- c.Run(ctx) }()
				start := time.Now()
				at := func(d time.Duration) {
					<-time.NewTimer(d - time.Since(start)).C
					synctest.Wait()
				}
				at(tc.first)
				s := c.State()
				if s == nil {
					t.Fatal("no state yet")
				}
				if got := missing(t, s); (got == "") != tc.has {
					t.Errorf("after %s the keys are missing: %q", tc.first, got)
				}
				if tc.down {
					if p := s.Problems(); len(p) != 1 || !strings.Contains(p[0].String(), "in.yaml:4") || !strings.Contains(p[0].String(), "connection refused") {
						t.Errorf("problems %v; want the reason at its line", p)
					}
					tc.keys.down.Store(false)
				}
				at(tc.later)
				if got := missing(t, c.State()); got != "" {
					t.Errorf("after %s the keys are missing: %s", tc.later, got)
				}
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// missing is why the compiled rule has no keys.
func missing(t *testing.T, s *State) string {
	t.Helper()
	snapshot := s.Index.Snapshot(ir.Node{Type: ir.Router, Name: "gateway-0", Namespace: "shop", Labels: map[string]string{"app": "gateway"}})
	for _, l := range snapshot.Listeners {
		for _, c := range l.Chains {
			for _, f := range c.Filters {
				if f.JWT != nil {
					return f.JWT.Providers[0].KeysMissing
				}
			}
		}
	}
	t.Fatal("no JWT step")
	return ""
}
