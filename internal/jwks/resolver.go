package jwks

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Times of fetching: Istio's refresh interval; after a failure soon again, and
// then less and less often. All are shortened or lengthened by up to a tenth,
// so that many sources do not ask at one moment.
const (
	refreshAfter = 20 * time.Minute
	retryAfter   = time.Second
	maxRetry     = time.Minute
)

// Options of a Resolver.
type Options struct {
	// Client fetches; default http.DefaultClient's transport. Redirects are
	// followed, but never from https to http.
	Client *http.Client
	// Changed is told, from the Resolver's own goroutines, that Sets has news.
	Changed func()
	Log     *slog.Logger
}

// Resolver keeps the key sets of the sources that are wanted fresh. A source
// that has answered once keeps its keys when it fails later: an issuer that is
// down must not take its users down with it. All methods may be called from
// anywhere.
type Resolver struct {
	opts   Options
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	wanted map[Source]*watch // guarded by mu
}

// watch is one source that is wanted.
type watch struct {
	stop  context.CancelFunc
	tried bool // guarded by Resolver.mu, as set is
	set   Set
}

// NewResolver returns a Resolver that wants nothing yet. Close ends it.
func NewResolver(o Options) *Resolver {
	client := &http.Client{}
	if o.Client != nil {
		*client = *o.Client
	}
	client.CheckRedirect = noDowngrade
	ctx, cancel := context.WithCancel(context.Background())
	return &Resolver{opts: o, client: client, ctx: ctx, cancel: cancel, wanted: map[Source]*watch{}}
}

// Close stops all fetching and waits for its end.
func (r *Resolver) Close() {
	r.cancel()
	r.wg.Wait()
}

// Want says which sources are to be kept; those that were wanted before and
// are not named are forgotten.
func (r *Resolver) Want(sources []Source) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	keep := map[Source]bool{}
	for _, s := range sources {
		keep[s] = true
		if r.wanted[s] == nil {
			ctx, stop := context.WithCancel(r.ctx)
			w := &watch{stop: stop}
			r.wanted[s] = w
			r.wg.Go(func() { r.run(ctx, s, w) })
		}
	}
	for s, w := range r.wanted {
		if !keep[s] {
			w.stop()
			delete(r.wanted, s)
		}
	}
}

// Sets is what is known now of every source that has been tried.
func (r *Resolver) Sets() map[Source]Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[Source]Set, len(r.wanted))
	for s, w := range r.wanted {
		if w.tried {
			out[s] = w.set
		}
	}
	return out
}

// Pending reports whether a source that is wanted has not been tried yet.
func (r *Resolver) Pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range maps.Values(r.wanted) {
		if !w.tried {
			return true
		}
	}
	return false
}

// run fetches one source until ctx ends.
func (r *Resolver) run(ctx context.Context, s Source, w *watch) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := retryAfter
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		document, err := fetch(ctx, r.client, s)
		if ctx.Err() != nil {
			return
		}
		r.learn(s, w, document, err)
		wait := refreshAfter
		if err != nil {
			wait, retry = retry, min(2*retry, maxRetry)
		} else {
			retry = retryAfter
		}
		timer.Reset(jitter(wait))
	}
}

// learn notes what came of a fetch and tells of news.
func (r *Resolver) learn(s Source, w *watch, document string, err error) {
	r.mu.Lock()
	next := Set{Document: document}
	if err != nil {
		next = Set{Document: w.set.Document, Error: err.Error()}
	}
	news := !w.tried || next != w.set
	w.tried, w.set = true, next
	r.mu.Unlock()
	if !news {
		return
	}
	if err != nil {
		r.opts.Log.Warn("the keys of a token issuer cannot be fetched", "url", s.URL, "issuer", s.Issuer, "err", err, "stale", next.Document != "")
	} else {
		r.opts.Log.Info("keys of a token issuer", "url", s.URL, "issuer", s.Issuer)
	}
	if r.opts.Changed != nil {
		r.opts.Changed()
	}
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5)
}
