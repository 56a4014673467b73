package proxy

import (
	"io"
	"net/http"
	goruntime "runtime"
	"strings"
	"testing"
	"time"
)

// streamGoroutines counts the goroutines that handle streams or wait for one.
func streamGoroutines() int {
	b := make([]byte, 4<<20)
	return strings.Count(string(b[:goruntime.Stack(b, true)]), "(*http2Stream).run(")
}

// A stream is handled by the goroutine of one that is through, and a connection
// without streams keeps none for long.
func TestStreamsShareGoroutines(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	get := func(t *testing.T, m *mesh, client *http.Client) {
		resp, err := client.Get(m.url + "/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	before := streamGoroutines()
	t.Run("share", func(t *testing.T) {
		m, client := newMeshOver(t, hops{"http2", "http2", "http2"}, app, func(m *mesh) {
			m.options = func(o *Options) { o.RestAfter = time.Hour }
		})
		for range 50 {
			get(t, m, client)
		}
		// One at each sidecar is enough, but a stream may come before the last one has been put away.
		if n := streamGoroutines() - before; n < 2 || n > 60 {
			t.Errorf("%d goroutines for 50 streams one after the other", n)
		}
	})
	t.Run("rest", func(t *testing.T) {
		m, client := newMeshOver(t, hops{"http2", "http2", "http2"}, app, func(m *mesh) {
			m.options = func(o *Options) { o.RestAfter = 5 * time.Millisecond }
		})
		for range 2 { // the second time they were dismissed before
			get(t, m, client)
			look, end := time.NewTicker(time.Millisecond), time.After(20*time.Second)
			for left := streamGoroutines(); left > before; left = streamGoroutines() {
				select {
				case <-look.C:
				case <-end:
					t.Fatalf("%d goroutines are left", left-before)
				}
			}
			look.Stop()
		}
	})
}
