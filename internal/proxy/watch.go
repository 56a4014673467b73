package proxy

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/header"
)

// watch is something that outlives the decision which let it in: a TCP
// connection, an upgraded request. Every new configuration decides again.
type watch struct {
	allowed func(next *runtime) bool // called from Apply's goroutine
	end     func()
}

// watch has every configuration from now on asked whether it still allows
// what goes on; if not, end is called. The returned function stops that.
func (d *downstream) watch(allowed func(next *runtime) bool, end func()) (stop func()) {
	w := &watch{allowed, end}
	d.mu.Lock()
	if d.watches == nil {
		d.watches = map[*watch]struct{}{}
	}
	d.watches[w] = struct{}{}
	d.mu.Unlock()
	// The configuration may have changed since the decision.
	if next := d.p.runtime.Load(); !allowed(next) {
		end()
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watches, w)
	}
}

// reconsider is called for every connection after a new snapshot. Requests
// look at the snapshot by themselves; what goes on for longer ends here if the
// new configuration would not have let it in.
func (d *downstream) reconsider(next *runtime) {
	d.mu.Lock()
	all := make([]*watch, 0, len(d.watches))
	for w := range d.watches {
		all = append(all, w)
	}
	d.mu.Unlock()
	for _, w := range all {
		if !w.allowed(next) {
			w.end()
		}
	}
}

// stillAllowed decides about an upgraded request as TCP's does about a
// connection. What it needs is copied: the request's memory is used again.
func (x *exchange) stillAllowed() func(next *runtime) bool {
	d, old, in := x.d, x.chain, x.authz
	if !in.HTTP { // no policy was there to decide
		in = x.input()
	}
	in.Host, in.Method, in.Path, in.Query = strings.Clone(in.Host), strings.Clone(in.Method), strings.Clone(in.Path), strings.Clone(in.Query)
	headers := &header.Head{Upgrade: strings.Clone(x.req.Upgrade), HasLength: x.req.HasLength, Length: x.req.Length}
	for _, f := range x.req.Fields.Fields {
		headers.Fields.Add(strings.Clone(f.Name), strings.Clone(f.Value))
	}
	in.Headers = headers
	return func(next *runtime) bool {
		if next.byName[old.listener.Name] == nil {
			return true // a door that left the configuration refuses nothing
		}
		c := next.chainFor(d, old)
		if c == nil || c.HTTP == nil {
			return false
		}
		for _, f := range c.Filters {
			if f.ExtAuthz != nil { // asked at the handshake; not again for every edit
				return true
			}
		}
		again := in
		again.Token = nil
		return c.authz.Check(&again, handshake{in.Token}).Allow
	}
}
