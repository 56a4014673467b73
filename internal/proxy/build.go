package proxy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/route"
)

// build compiles a snapshot; it changes nothing that is in use. What the
// snapshot shares with the one in force (the same pointers: objects inside a
// snapshot never change) is taken over as it is, so that the usual change, one
// endpoint, compiles nothing.
func (p *Proxy) build(s *ir.Snapshot) (*runtime, error) {
	prev := p.runtime.Load()
	rt := &runtime{version: s.Version, snapshot: s, node: s.Node, prev: prev}
	if prev != nil && reflect.DeepEqual(prev.node, s.Node) {
		rt.principal, rt.self, rt.metadata = prev.principal, prev.self, prev.metadata
	} else {
		rt.prev = nil
		rt.principal, rt.self = s.Node.Principal(), selfPeer(s.Node)
		rt.metadata = introduce(rt.self)
	}
	if rt.prev != nil && !slices.Equal(prev.snapshot.Secrets, s.Secrets) {
		rt.prev = nil // filter chains may hold any of them
	}
	var err error
	if rt.prepared, err = p.upstream.Prepare(s); err != nil {
		return nil, err
	}
	if err := p.compileTables(rt); err != nil {
		return nil, err
	}
	if rt.prev != nil && slices.Equal(prev.snapshot.Listeners, s.Listeners) && slices.Equal(prev.snapshot.Routes, s.Routes) {
		rt.bound, rt.byName, rt.byDst, rt.byDstPort, rt.used = prev.bound, prev.byName, prev.byDst, prev.byDstPort, prev.used
	} else {
		rt.bound, rt.byName = map[netip.AddrPort]*listener{}, map[string]*listener{}
		rt.byDst, rt.byDstPort, rt.used = map[netip.AddrPort]*listener{}, map[uint16]*listener{}, map[string]bool{}
		for _, l := range s.Listeners {
			if err := p.addListener(rt, l); err != nil {
				return nil, fmt.Errorf("listener %s: %w", l.Name, err)
			}
		}
	}
	rt.prev = nil // the old one must not live as long as this one
	return rt, nil
}

// compileTables compiles the route tables that are new or different.
func (p *Proxy) compileTables(rt *runtime) error {
	routes := rt.snapshot.Routes
	if rt.prev != nil && slices.Equal(rt.prev.snapshot.Routes, routes) {
		rt.tables, rt.formats, rt.routeStats = rt.prev.tables, rt.prev.formats, rt.prev.routeStats
		return nil
	}
	rt.tables = make(map[string]*route.Table, len(routes))
	for _, t := range routes {
		if rt.prev != nil && rt.prev.snapshot.RouteTable(t.Name) == t {
			rt.tables[t.Name] = rt.prev.tables[t.Name]
			continue
		}
		table, err := route.New(t)
		if err != nil {
			return fmt.Errorf("route table %s: %w", t.Name, err)
		}
		rt.tables[t.Name] = table
	}
	rt.routeStats = p.routeCounters.bind(routes)
	var err error
	rt.formats, err = formats(routes)
	return err
}

// reusable is the listener in force if it is the same and its chains route by
// the same tables.
func (rt *runtime) reusable(l *ir.Listener) *listener {
	if rt.prev == nil {
		return nil
	}
	old := rt.prev.byName[l.Name]
	if old == nil || old.Listener != l {
		return nil
	}
	for _, c := range old.every() {
		if c.HTTP != nil && c.routes != rt.tables[c.HTTP.RouteTable] {
			return nil
		}
	}
	return old
}

// every lists the listener's filter chains, the default one too.
func (l *listener) every() []*chain {
	if l.def == nil {
		return l.chains
	}
	return append(slices.Clip(l.chains), l.def)
}
