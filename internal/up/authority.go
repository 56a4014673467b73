package up

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/admin"
	"github.com/tulle-mesh/tulle/internal/ca"
)

const (
	// caPoll is how often a plugged-in authority's folder is looked at.
	caPoll = 5 * time.Second
	// spreadTime is how long proxies may take to acknowledge a trust bundle.
	spreadTime = 30 * time.Second
)

// prepareCA makes the authority's folder where it is not there; it returns its
// absolute path. A folder that is there must hold a whole authority.
func prepareCA(dir, trustDomain string) (string, error) {
	if dir == "" {
		return "", nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	switch entries, err := os.ReadDir(dir); {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", err
	case len(entries) > 0:
		_, err := ca.LoadIssuer(dir)
		return dir, err
	}
	i, err := ca.NewIssuer(trustDomain)
	if err != nil {
		return "", err
	}
	return dir, i.Save(dir)
}

func openAuthority(s *spec) (*ca.Authority, error) {
	if s.CA == "" {
		return ca.New(s.TrustDomain)
	}
	i, err := ca.LoadIssuer(s.CA)
	if err != nil {
		return nil, err
	}
	return ca.NewAuthority(i), nil
}

// rotation is what asks the authority to change its root.
type rotation struct {
	asked chan struct{}
	write sync.Mutex        // held while the bundle's file is written
	seen  [sha256.Size]byte // the plugged-in folder's content that is in force; only rotate touches it
}

// rotate changes the root when it is asked for, or when a plugged-in
// authority's files are others than before. One change at a time.
func (r *room) rotate(ctx context.Context) error {
	tick := time.NewTicker(caPoll)
	defer tick.Stop()
	r.rotation.seen = contentOf(r.spec.CA)
	for {
		var next *ca.Issuer
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-r.rotation.asked:
			next, err = ca.NewIssuer(r.spec.TrustDomain)
		case <-tick.C:
			now := contentOf(r.spec.CA)
			if r.spec.CA == "" || now == r.rotation.seen {
				continue
			}
			// Files that are copied one after the other do not fit together for a
			// moment: the next tick looks again.
			if next, err = ca.LoadIssuer(r.spec.CA); err == nil {
				r.rotation.seen = now
			}
		}
		if err != nil {
			r.log.Warn("the authority stays as it is", "err", err)
			continue
		}
		r.log.Info("the root changes", "to", next)
		if err := r.authority.Rotate(ctx, next, r.announce); err != nil && ctx.Err() == nil {
			r.log.Error("change of root", "err", err)
		}
	}
}

// contentOf is a hash over the authority's files; zero where there are none.
func contentOf(dir string) (sum [sha256.Size]byte) {
	if dir == "" {
		return sum
	}
	entries, _ := os.ReadDir(dir) // not there: empty, and LoadIssuer says so
	h := sha256.New()
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		fmt.Fprintf(h, "%s %d %v\n", e.Name(), len(text), err != nil)
		h.Write(text)
	}
	h.Sum(sum[:0])
	return sum
}

// announce gives every proxy the trust bundle as it is now, and returns when
// all that are connected run with it. One that connects later gets it first.
func (r *room) announce(ctx context.Context) error {
	if err := r.writeRoots(); err != nil {
		return err
	}
	r.source.poke()
	ctx, cancel := context.WithTimeout(ctx, spreadTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting := r.without(r.authority.Roots())
		if len(waiting) == 0 {
			r.log.Info("the trust bundle is in force everywhere", "roots", r.authority.Status().Roots)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("proxies without the trust bundle: %v: %w", waiting, ctx.Err())
		case <-tick.C:
		}
	}
}

// without names the connected proxies that do not run with these roots yet.
func (r *room) without(roots []byte) []string {
	s := r.control.State()
	if s == nil || !bytes.Equal(s.Set.Roots, roots) {
		return []string{"all"}
	}
	var out []string
	for _, p := range r.control.Status() {
		if p.Version != s.Index.Snapshot(p.Node).Version || !p.Synced() {
			out = append(out, p.Node.Name)
		}
	}
	slices.Sort(out)
	return out
}

// writeRoots puts the bundle where this machine's own tools find it.
func (r *room) writeRoots() error {
	r.rotation.write.Lock()
	defer r.rotation.write.Unlock()
	return os.WriteFile(filepath.Join(r.spec.Dir, rootFile), r.authority.Roots(), 0o600)
}

// rotateNow begins a change of root (POST /v1/ca/rotate).
func (r *room) rotateNow(w http.ResponseWriter, _ *http.Request) {
	if r.spec.CA != "" {
		http.Error(w, "this mesh's authority is plugged in: put the new one's files into "+r.spec.CA, http.StatusConflict)
		return
	}
	if phase := r.authority.Status().Phase; phase != ca.Stable {
		http.Error(w, "a change of root is under way ("+string(phase)+")", http.StatusConflict)
		return
	}
	select {
	case r.rotation.asked <- struct{}{}:
	default: // asked for already
	}
	admin.WriteJSON(w, http.StatusOK, r.authority.Status())
}
