package jwks

import (
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// web answers by URL; what it does not know cannot be reached.
type web struct {
	mu    sync.Mutex
	pages map[string]page
	asked map[string][]time.Time
}

type page struct {
	status int
	body   string
	to     string // redirect
	hangs  bool
}

func (w *web) set(url string, p page) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[url] = p
}

func (w *web) times(url string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[url]
}

func (w *web) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	p, ok := w.pages[req.URL.String()]
	w.asked[req.URL.String()] = append(w.asked[req.URL.String()], time.Now())
	w.mu.Unlock()
	if !ok {
		return nil, errors.New("no route to host")
	}
	if p.hangs {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	h := http.Header{}
	if p.to != "" {
		h.Set("Location", p.to)
		p.status = http.StatusFound
	}
	if p.status == 0 {
		p.status = 200
	}
	return &http.Response{StatusCode: p.status, Header: h, Body: io.NopCloser(strings.NewReader(p.body)), Request: req}, nil
}

func keySet(t testing.TB, seed byte) string {
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(seed), 32)))
	return set(jwk(t, key.Public(), nil))
}

func run(t *testing.T, pages map[string]page, f func(t *testing.T, w *web, r *Resolver, news func() int)) {
	synctest.Test(t, func(t *testing.T) {
		w := &web{pages: pages, asked: map[string][]time.Time{}}
		n := 0 // read after synctest.Wait only
		r := NewResolver(Options{Client: &http.Client{Transport: w}, Changed: func() { n++ }, Log: slog.New(slog.DiscardHandler)})
		defer r.Close()
		f(t, w, r, func() int { synctest.Wait(); return n })
	})
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	<-time.NewTimer(d).C
	synctest.Wait()
}

// Where keys come from, and what is no answer.
func TestFetch(t *testing.T) {
	const at, issuer = "https://keys.example.com/jwks", "https://issuer.example.com"
	good := keySet(t, 1)
	described := func(url string) page { return page{body: `{"issuer":"x","jwks_uri":"` + url + `"}`} }
	for _, tc := range []struct {
		name   string
		source Source
		pages  map[string]page
		err    string
	}{
		{"by URL", Source{URL: at}, map[string]page{at: {body: good}}, ""},
		{"by discovery", Source{Issuer: issuer + "/"}, map[string]page{issuer + discovery: described(at), at: {body: good}}, ""},
		{"redirected", Source{URL: at}, map[string]page{at: {to: "https://b/keys"}, "https://b/keys": {body: good}}, ""},
		{"redirected out of TLS", Source{URL: at}, map[string]page{at: {to: "http://b/keys"}, "http://b/keys": {body: good}}, "from https to http"},
		{"redirected for ever", Source{URL: at}, map[string]page{at: {to: at}}, "ten redirects"},
		{"unreachable", Source{URL: at}, nil, "no route to host"},
		{"status", Source{URL: at}, map[string]page{at: {status: 503, body: good}}, "status 503"},
		{"no key set", Source{URL: at}, map[string]page{at: {body: "<html>"}}, "not JSON"},
		{"no keys", Source{URL: at}, map[string]page{at: {body: `{"keys":[]}`}}, "no usable key"},
		{"too large", Source{URL: at}, map[string]page{at: {body: strings.Repeat(" ", MaxDocument) + good}}, "more than"},
		{"late", Source{URL: at, Timeout: 2 * time.Second}, map[string]page{at: {hangs: true}}, "deadline exceeded"},
		{"discovery is no JSON", Source{Issuer: issuer}, map[string]page{issuer + discovery: {body: "x"}}, "not JSON"},
		{"discovery without keys", Source{Issuer: issuer}, map[string]page{issuer + discovery: {body: "{}"}}, "jwks_uri"},
		{"discovery names a file", Source{Issuer: issuer}, map[string]page{issuer + discovery: described("file:///etc/passwd")}, "jwks_uri"},
		{"discovery leads out of TLS", Source{Issuer: issuer}, map[string]page{issuer + discovery: described("http://keys.example.com/jwks")}, "no TLS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, tc.pages, func(t *testing.T, _ *web, r *Resolver, news func() int) {
				r.Want([]Source{tc.source})
				pass(5 * time.Second)
				got := r.Sets()[tc.source]
				if tc.err == "" && got != (Set{Document: good}) || tc.err != "" && (got.Document != "" || !strings.Contains(got.Error, tc.err)) {
					t.Errorf("have %+v, want error %q", got, tc.err)
				}
				if r.Pending() || news() == 0 {
					t.Errorf("pending %v, news %d", r.Pending(), news())
				}
			})
		})
	}
}

// Refreshed, retried, kept while the source is down, forgotten when unwanted.
func TestResolver(t *testing.T) {
	const at = "https://keys.example.com/jwks"
	s := Source{URL: at}
	first, second := keySet(t, 1), keySet(t, 2)
	run(t, map[string]page{at: {body: first}}, func(t *testing.T, w *web, r *Resolver, news func() int) {
		r.Want([]Source{s, s})
		if n := news(); n != 1 || r.Sets()[s].Document != first {
			t.Fatalf("news %d, %+v", n, r.Sets())
		}
		pass(refreshAfter + refreshAfter/10)
		if n := len(w.times(at)); n != 2 || news() != 1 {
			t.Errorf("%d fetches, %d news; want a second fetch, without news", n, news())
		}
		w.set(at, page{status: 500})
		pass(refreshAfter + refreshAfter/10)
		if got := r.Sets()[s]; got.Document != first || !strings.Contains(got.Error, "status 500") {
			t.Errorf("down: %+v, want the last keys and why", got)
		}
		failures := len(w.times(at))
		pass(10 * time.Minute)
		if n := len(w.times(at)) - failures; n < 10 || n > 20 {
			t.Errorf("%d tries in ten minutes, want about one a minute after the first", n)
		}
		w.set(at, page{body: second})
		pass(maxRetry + maxRetry/10)
		if got := r.Sets()[s]; got != (Set{Document: second}) {
			t.Errorf("back: %+v", got)
		}
		r.Want(nil)
		if len(r.Sets()) != 0 || r.Pending() {
			t.Errorf("unwanted: %+v", r.Sets())
		}
		fetches := len(w.times(at))
		pass(time.Hour)
		if n := len(w.times(at)); n != fetches {
			t.Errorf("%d fetches of what nobody wants", n-fetches)
		}
	})
}

// Close ends a fetch that hangs.
func TestClose(t *testing.T) {
	const at = "https://keys.example.com/jwks"
	run(t, map[string]page{at: {hangs: true}}, func(t *testing.T, _ *web, r *Resolver, _ func() int) {
		start := time.Now()
		r.Want([]Source{{URL: at}})
		synctest.Wait()
		r.Close()
		r.Want([]Source{{URL: at + "2"}})
		if d := time.Since(start); d != 0 || len(r.Sets()) != 0 {
			t.Errorf("closed after %s with %+v", d, r.Sets())
		}
	})
}
