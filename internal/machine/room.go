// Package machine runs a mesh's workloads on one Linux machine: a network
// namespace per replica, its processes, probes, name service. Everything lives
// in namespaces of its own (Enter) and ends with them.
package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Options of a Room.
type Options struct {
	Dir  string // for logs and volumes; the caller removes it
	Plan PlanOptions
	// Sidecar returns the command, environment and secret token of a replica's
	// proxy. The token reaches it through an inherited file, out of the
	// application's sight.
	Sidecar func(w *resource.Workload) (argv, env []string, token string)
	// Public are files of Dir that applications may read; of the others they find
	// their own pod's folder and the build's.
	Public []string
	// ProxyEnv is added to the environment of commands that run in a sidecar's
	// place.
	ProxyEnv []string
	// Gateways are proxies without application, by name.
	Gateways []*resource.Workload
	// Ended is told of a container's process that ended by itself. It must not
	// block.
	Ended func(Ending)
	// Changed is told of every change of instances or readiness, serialized.
	Changed func([]*resource.Workload)
	Log     *slog.Logger
}

// Room is the running machine. Apply and Stop must not overlap; the rest may
// be called from any goroutine.
type Room struct {
	opts Options
	dns  *nameServer

	mu       sync.Mutex
	pods     map[string]*pod
	nextAddr netip.Addr
	vips     vips
	set      *resource.Set
	notify   sync.Mutex // serializes Changed and translate
}

// New sets up the room's network and name server.
func New(o Options) (*Room, error) {
	if err := setupNetwork(); err != nil {
		return nil, err
	}
	r := &Room{opts: o, pods: map[string]*pod{}, nextAddr: Gateway.Next(), vips: vips{}}
	var err error
	r.dns, err = serveNames(netip.AddrPortFrom(Gateway, 53), r, o.Log)
	return r, err
}

// AssignAddresses returns the set with an address for every Service that has
// none: always the same for the same name, as long as the room lives.
func (r *Room) AssignAddresses(set *resource.Set) *resource.Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set = r.vips.assign(set)
	return r.set
}

// Apply starts, stops and restarts replicas until they are what the set asks
// for. What has not changed goes on undisturbed. It returns when everything is
// started, not when it is ready.
func (r *Room) Apply(ctx context.Context, set *resource.Set) []resource.Problem {
	specs, problems := plan(set, r.opts.Plan)
	for _, g := range r.opts.Gateways {
		specs = append(specs, &podSpec{Name: g.Name, Namespace: g.Namespace, Owner: g.Owner, OwnerKind: g.OwnerKind, Labels: g.Labels, Ports: g.Ports, ServiceAccount: g.ServiceAccount, Gateway: true})
	}
	want := map[string]*podSpec{}
	for _, s := range specs {
		want[s.key()] = s
	}
	r.mu.Lock()
	var stop, start []*pod
	for key, p := range r.pods {
		s := want[key]
		if s != nil && s.hash() == p.spec.hash() {
			if err := p.updateVolumes(s.Volumes); err != nil {
				r.opts.Log.Warn("volumes", "pod", p.spec.Name, "err", err)
			}
			continue
		}
		stop = append(stop, p)
		delete(r.pods, key)
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if r.pods[key] == nil {
			p := newPod(r, want[key], r.freeAddr())
			r.pods[key] = p
			start = append(start, p)
		}
	}
	r.mu.Unlock()
	stopAll(ctx, stop)
	var wg sync.WaitGroup
	var failed sync.Map
	for _, p := range start {
		wg.Go(func() {
			if err := p.start(); err != nil {
				failed.Store(p.spec.Name, err)
			}
		})
	}
	wg.Wait()
	failed.Range(func(name, err any) bool {
		problems = append(problems, resource.Problem{Severity: resource.Error, Reason: fmt.Sprintf("%s cannot be started: %v", name, err)})
		return true
	})
	if len(stop)+len(start) > 0 {
		r.changed()
	} else { // services may have changed all the same
		r.notify.Lock()
		defer r.notify.Unlock()
		r.translate()
	}
	return problems
}

// freeAddr takes the next address no pod has. r.mu is held.
func (r *Room) freeAddr() netip.Addr {
	for {
		a := r.nextAddr
		if r.nextAddr = a.Next(); !podNetwork.Contains(r.nextAddr) {
			r.nextAddr = Gateway.Next()
		}
		used := a.As4()[3] == 0 || a.As4()[3] == 255
		for _, p := range r.pods {
			used = used || p.addr == a
		}
		if !used {
			return a
		}
	}
}

// Workloads are the replicas now, by name.
func (r *Room) Workloads() []*resource.Workload {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*resource.Workload, 0, len(r.pods))
	for _, p := range r.pods {
		out = append(out, p.workload())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (r *Room) changed() {
	r.notify.Lock()
	defer r.notify.Unlock()
	r.translate()
	if r.opts.Changed != nil {
		r.opts.Changed(r.Workloads())
	}
}

// find returns the first pod that a name means (resource.Named).
func (r *Room) find(name string) (*pod, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := slices.Sorted(maps.Keys(r.pods))
	found := resource.Named(keys, name, func(key string) resource.Naming { return r.pods[key].spec.naming() })
	if len(found) == 0 {
		return nil, fmt.Errorf("no workload %q; there are: %v", name, keys)
	}
	return r.pods[found[0]], nil
}

// Settled returns nil once every replica is ready, or says which is not when
// ctx ends.
func (r *Room) Settled(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var waiting []string
		for _, w := range r.Workloads() {
			if !w.Ready {
				waiting = append(waiting, w.Name)
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %v", waiting)
		case <-tick.C:
		}
	}
}

// Stop ends every process: applications first, then their sidecars, then
// whatever is left when ctx ends.
func (r *Room) Stop(ctx context.Context) {
	r.mu.Lock()
	pods := slices.Collect(maps.Values(r.pods))
	r.pods = map[string]*pod{}
	r.mu.Unlock()
	stopAll(ctx, pods)
	r.dns.close()
}

func stopAll(ctx context.Context, pods []*pod) {
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() { p.stop(ctx) })
	}
	wg.Wait()
}

func (r *Room) podDir(s *podSpec) string { return filepath.Join(r.opts.Dir, "pods", s.key()) }

var errNoProcess = errors.New("no process of that container is running")

func ensureDir(path string) error { return os.MkdirAll(path, 0o700) }
