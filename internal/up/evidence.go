package up

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/admin"
	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	// debugFile has the run's debug credential. The sidecars know its hash only.
	debugFile = "debug-credential"
	// adminTime bounds what all sidecars together may take to show a page.
	adminTime = 5 * time.Second
	maxAdmin  = 32 << 20 // bytes of one page
	adminPort = 15000
)

// newDebugCredential makes the run's credential and returns its hash.
func newDebugCredential(dir string) (digest string, err error) {
	credential := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(credential))
	return hex.EncodeToString(sum[:]), os.WriteFile(filepath.Join(dir, debugFile), []byte(credential), 0o600)
}

// DebugCredential is the value of x-tulle-debug with which a refused request
// of this user's run is told its decision id.
func (c *Client) DebugCredential() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, debugFile))
	return string(b), err
}

// Denial is a denial with the workload that refused.
type Denial struct {
	Workload string `json:"workload"`
	proxy.Denial
}

// Failure is a failure with the workload whose proxy answered.
type Failure struct {
	Workload string `json:"workload"`
	proxy.Failure
}

// Edge is an edge with the workload that was called and, where only the
// address is known of the caller, the workload that has it.
type Edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	proxy.Edge
}

// denials answers GET /v1/denials?id=ID: the newest of every sidecar, or the
// one with this id.
func (r *room) denials(w http.ResponseWriter, req *http.Request) {
	out, label := []Denial{}, resource.Shortest(r.machine.Workloads(), (*resource.Workload).Naming)
	err := fromSidecars(r, req.Context(), "/denials?"+url.Values{"id": {req.URL.Query().Get("id")}}.Encode(), func(x *resource.Workload, list []proxy.Denial) {
		for _, d := range list {
			if !probed(d.Source.Addr()) {
				out = append(out, Denial{label(x), d})
			}
		}
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if req.URL.Query().Get("id") != "" {
		for i := range out {
			r.addDecision(req.Context(), out[i].External)
		}
	}
	slices.SortStableFunc(out, func(a, b Denial) int { return b.Time.Compare(a.Time) })
	admin.WriteJSON(w, http.StatusOK, out)
}

// failures answers GET /v1/failures?id=ID: the newest of every sidecar, or those
// with this id or x-request-id.
func (r *room) failures(w http.ResponseWriter, req *http.Request) {
	out, label := []Failure{}, resource.Shortest(r.machine.Workloads(), (*resource.Workload).Naming)
	err := fromSidecars(r, req.Context(), "/failures?"+url.Values{"id": {req.URL.Query().Get("id")}}.Encode(), func(x *resource.Workload, list []proxy.Failure) {
		for _, f := range list {
			if !probed(f.Source.Addr()) {
				out = append(out, Failure{label(x), f})
			}
		}
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	slices.SortStableFunc(out, func(a, b Failure) int { return b.Time.Compare(a.Time) })
	admin.WriteJSON(w, http.StatusOK, out)
}

// edges answers GET /v1/edges?from=WORKLOAD&to=WORKLOAD.
func (r *room) edges(w http.ResponseWriter, req *http.Request) {
	callers := map[netip.Addr]*resource.Workload{}
	for _, x := range r.machine.Workloads() {
		callers[x.Address] = x
	}
	from, to := req.URL.Query().Get("from"), req.URL.Query().Get("to")
	for _, name := range []string{from, to} {
		if !slices.ContainsFunc(r.machine.Workloads(), func(x *resource.Workload) bool { return x.Naming().Matches(name) }) {
			http.Error(w, fmt.Sprintf("no workload matches %q; \"tulle proxy-status\" lists them", name), http.StatusNotFound)
			return
		}
	}
	out, label := []Edge{}, resource.Shortest(r.machine.Workloads(), (*resource.Workload).Naming)
	err := fromSidecars(r, req.Context(), "/edges", func(x *resource.Workload, list []proxy.Edge) {
		if !x.Naming().Matches(to) {
			return
		}
		for _, e := range list {
			if probed(e.Source) {
				continue
			}
			name, caller := e.Source.String(), callers[e.Source]
			if caller != nil {
				name = label(caller)
			}
			if from == "" || caller != nil && caller.Naming().Matches(from) {
				out = append(out, Edge{name, label(x), e})
			}
		}
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	slices.SortStableFunc(out, func(a, b Edge) int { return cmp.Or(cmp.Compare(a.To, b.To), cmp.Compare(a.From, b.From)) })
	admin.WriteJSON(w, http.StatusOK, out)
}

// probed reports whether a connection was mtls verify's: nothing else of the
// room calls workloads from its own address.
func probed(source netip.Addr) bool { return source == machine.Gateway }

// fromSidecars reads a page of every proxy of the room, all at once; add is
// called with one at a time. A proxy that is on its way out is left out.
func fromSidecars[T any](r *room, ctx context.Context, page string, add func(*resource.Workload, T)) error {
	var last error
	got := 0
	askSidecars(r, ctx, page, func(x *resource.Workload, doc T, err error) {
		if err != nil {
			last = fmt.Errorf("sidecar of %s: %w", x.Name, err)
			return
		}
		got++
		add(x, doc)
	})
	if got == 0 {
		return last
	}
	return nil
}

// askSidecars is fromSidecars for who must know of those that do not answer.
func askSidecars[T any](r *room, ctx context.Context, page string, answer func(*resource.Workload, T, error)) {
	ctx, cancel := context.WithTimeout(ctx, adminTime)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex // one answer at a time
	for _, x := range r.machine.Workloads() {
		if !x.Sidecar && !x.Gateway {
			continue
		}
		wg.Go(func() {
			var doc T
			err := r.sidecarJSON(ctx, x.Key(), page, &doc)
			mu.Lock()
			defer mu.Unlock()
			answer(x, doc, err)
		})
	}
	wg.Wait()
}

// sidecarTransport reaches a sidecar's admin port, which is on the loopback of
// its own network.
func (r *room) sidecarTransport(workload string) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return r.machine.DialLocal(ctx, workload, adminPort)
	}}
}

func (r *room) sidecarJSON(ctx context.Context, workload, page string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+page, nil)
	if err != nil {
		return err
	}
	resp, err := r.sidecarTransport(workload).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", page, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAdmin)).Decode(out)
}
