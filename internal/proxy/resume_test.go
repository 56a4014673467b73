package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// A try fails while the request still comes: the next one begins with what has
// come and goes on from there, as in Envoy. The rest of the body is sent only
// when the second try has read what came before, so that neither can have it
// by chance.
func TestRetryGoesOnWithBody(t *testing.T) {
	const first, rest = "what has come, ", "and what is still to come"
	for name, fail := range map[string]func(w http.ResponseWriter){
		"answers 503": func(w http.ResponseWriter) {
			http.NewResponseController(w).EnableFullDuplex() // or HTTP/1.1 would wait for the body
			w.WriteHeader(503)
		},
		"breaks off": func(w http.ResponseWriter) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil { // HTTP/2
				panic(http.ErrAbortHandler)
			}
			c.Close()
		},
	} {
		for _, h := range allHops() {
			t.Run(name+"/"+h.String(), func(t *testing.T) {
				var tries atomic.Int32
				again := make(chan struct{})
				m, client := newMeshOver(t, h, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					begin := make([]byte, len(first))
					if _, err := io.ReadFull(r.Body, begin); err != nil || string(begin) != first {
						t.Errorf("try %d read %q, %v", tries.Load()+1, begin, err)
					}
					if tries.Add(1) == 1 {
						fail(w)
						return
					}
					close(again)
					b, err := io.ReadAll(r.Body)
					if err != nil || r.Trailer.Get("x-sum") != "42" {
						t.Errorf("the rest: %v, trailers %v", err, r.Trailer)
					}
					w.Write(append(begin, b...))
				}), func(m *mesh) {
					m.route().Forward.Retry = &ir.RetryPolicy{Attempts: 2, On: []string{"5xx"}}
				})
				body, w := io.Pipe()
				go func() {
					io.WriteString(w, first)
					<-again
					io.WriteString(w, rest)
					w.Close()
				}()
				req, _ := http.NewRequest("POST", m.url+"/", body)
				req.Trailer = http.Header{"X-Sum": {"42"}}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(got) != first+rest || err != nil {
					t.Errorf("%s: %q, %v", resp.Status, got, err)
				}
				if n := tries.Load(); n != 2 {
					t.Errorf("%d tries", n)
				}
			})
		}
	}
}
