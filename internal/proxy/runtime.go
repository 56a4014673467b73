package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwt"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

// runtime is a snapshot compiled for serving. Immutable once stored.
type runtime struct {
	version   string
	snapshot  *ir.Snapshot
	node      ir.Node
	principal string          // our SPIFFE ID
	self      *telemetry.Peer // ourselves, in metrics
	metadata  string          // ourselves, as we introduce us to another sidecar

	bound     map[netip.AddrPort]*listener // with a socket
	byName    map[string]*listener
	byDst     map[netip.AddrPort]*listener // without a socket: handed over by original destination
	byDstPort map[uint16]*listener         // the same on the wildcard address

	tables     map[string]*route.Table
	formats    map[string]*telemetry.Format // header values with operators
	routeStats map[*ir.Route]*routeStats    // of those with a statPrefix
	clusters   map[string]*upstream.Cluster
	prepared   *upstream.Prepared
	used       map[string]bool // providers and verifiers, by key
	prev       *runtime        // what may be reused; only while this one is built
}

// listener with its chains compiled.
type listener struct {
	*ir.Listener
	chains []*chain
	def    *chain
}

// chain is a filter chain compiled: everything a connection needs.
type chain struct {
	*ir.FilterChain
	listener *listener
	outbound bool
	gateway  bool
	tls      *tls.Config
	authz    *authz.Engine
	asks     map[*ir.ExtAuthz]authz.Provider
	tokens   map[*ir.JWT]*jwt.Filter
	uses     []string     // keys of what is shared: the providers in asks, the verifiers in tokens
	routes   *route.Table // nil: the table has not arrived, everything answers NR
	upgrades []string
	log      *telemetry.Logger
	format   *telemetry.Format
}

func (p *Proxy) addListener(rt *runtime, l *ir.Listener) error {
	if l.DNS != nil { // the agent's name server has it
		return nil
	}
	if old := rt.reusable(l); old != nil {
		return rt.place(old)
	}
	out := &listener{Listener: l}
	for _, fc := range l.Chains {
		c, err := p.buildChain(rt, out, fc)
		if err != nil {
			return fmt.Errorf("filter chain %s: %w", fc.Name, err)
		}
		out.chains = append(out.chains, c)
	}
	if l.Default != nil {
		c, err := p.buildChain(rt, out, l.Default)
		if err != nil {
			return fmt.Errorf("default filter chain: %w", err)
		}
		out.def = c
	}
	return rt.place(out)
}

// place makes the listener findable.
func (rt *runtime) place(out *listener) error {
	l := out.Listener
	if rt.byName[l.Name] != nil {
		return errors.New("the name is used twice")
	}
	rt.byName[l.Name] = out
	for _, c := range out.every() {
		for _, key := range c.uses {
			rt.used[key] = true
		}
	}
	switch {
	case l.Bind && rt.bound[l.Address] != nil:
		return fmt.Errorf("address %s is taken by listener %s", l.Address, rt.bound[l.Address].Name)
	case l.Bind:
		rt.bound[l.Address] = out
	case l.Address.Addr().IsUnspecified():
		rt.byDstPort[l.Address.Port()] = out
	default:
		rt.byDst[l.Address] = out
	}
	return nil
}

func (p *Proxy) buildChain(rt *runtime, l *listener, fc *ir.FilterChain) (*chain, error) {
	c := &chain{FilterChain: fc, listener: l, outbound: l.Direction == ir.Outbound, gateway: rt.node.Type == ir.Router}
	if (fc.HTTP == nil) == (fc.TCP == nil) {
		return nil, errors.New("exactly one of http and tcp must be set")
	}
	var err error
	if fc.TLS != nil {
		if p.opts.TLS == nil {
			return nil, errors.New("TLS is configured, but this proxy has no certificates")
		}
		if c.tls, err = p.opts.TLS.ServerTLS(fc.TLS, rt.secret); err != nil {
			return nil, err
		}
	}
	if c.authz, err = authz.New(fc.Filters); err != nil {
		return nil, err
	}
	if err := p.bindProviders(rt, c); err != nil {
		return nil, err
	}
	if err := p.bindVerifiers(c); err != nil {
		return nil, err
	}
	logTo := (*ir.AccessLog)(nil)
	if fc.HTTP != nil {
		c.routes, logTo, c.upgrades = rt.tables[fc.HTTP.RouteTable], fc.HTTP.AccessLog, fc.HTTP.Upgrades
	} else {
		logTo = fc.TCP.AccessLog
		if len(fc.TCP.Clusters) == 0 {
			return nil, errors.New("tcp: no cluster")
		}
	}
	if logTo != nil {
		if err := p.openLog(c, logTo); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (p *Proxy) openLog(c *chain, a *ir.AccessLog) (err error) {
	if a.JSON {
		fields := a.Fields
		if len(fields) == 0 {
			fields = telemetry.DefaultJSON()
		}
		c.format, err = telemetry.ParseJSON(fields)
	} else {
		c.format, err = telemetry.ParseFormat(a.Format)
	}
	if err != nil {
		return err
	}
	if p.logs[a.Path] == nil {
		if p.logs[a.Path], err = p.opts.OpenLog(a.Path); err != nil {
			return err
		}
	}
	c.log = p.logs[a.Path]
	return nil
}

// bindProviders finds or makes the clients of the chain's external authorizers.
func (p *Proxy) bindProviders(rt *runtime, c *chain) error {
	for _, f := range c.Filters {
		e := f.ExtAuthz
		if e == nil || e.Broken != "" {
			continue
		}
		if p.opts.Authorizer == nil && e.HTTP == nil {
			return fmt.Errorf("provider %s: this proxy has no external authorizers", e.Provider)
		}
		bare := *e
		bare.Policies = nil // a client is shared by all policies that use it alike
		key := ir.Hash(bare)
		if p.providers[key] == nil {
			made, err := p.authorizer(e)
			if err != nil {
				return fmt.Errorf("provider %s: %w", e.Provider, err)
			}
			p.providers[key] = made
		}
		if c.asks == nil {
			c.asks = map[*ir.ExtAuthz]authz.Provider{}
		}
		c.asks[e] = p.providers[key]
		c.uses = append(c.uses, key)
	}
	return nil
}

func (p *Proxy) authorizer(e *ir.ExtAuthz) (authz.Provider, error) {
	if e.HTTP != nil {
		return &httpAuthorizer{p: p, config: e}, nil
	}
	return p.opts.Authorizer(e, func(ctx context.Context) (net.Conn, error) { return p.dialCluster(ctx, e.Cluster) })
}

// dropProviders closes the clients, and forgets the verifiers, that next does
// not use; nil drops all.
func (p *Proxy) dropProviders(next *runtime) {
	for key, provider := range p.providers {
		if next != nil && next.used[key] {
			continue
		}
		if c, ok := provider.(io.Closer); ok {
			c.Close()
		}
		delete(p.providers, key)
	}
	for key := range p.verifiers {
		if next == nil || !next.used[key] {
			delete(p.verifiers, key)
		}
	}
}

// dialCluster connects to a healthy endpoint of a cluster, with its TLS.
func (p *Proxy) dialCluster(ctx context.Context, name string) (net.Conn, error) {
	rt := p.runtime.Load()
	if rt == nil || rt.clusters[name] == nil {
		return nil, fmt.Errorf("no cluster %s", name)
	}
	c := rt.clusters[name]
	h := c.Pick(netip.AddrPort{}, nil, 0)
	if h == nil {
		return nil, fmt.Errorf("cluster %s has no healthy endpoint", name)
	}
	deadline, _ := ctx.Deadline()
	return c.Dial(h, deadline, upstream.Source{})
}

func (rt *runtime) secret(name string) *ir.Secret {
	for _, s := range rt.snapshot.Secrets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// chainFor is the chain of this configuration for a connection that another
// one accepted with the chain old: the one that would take it now, if what the connection has
// settled (TLS, who the peer is, the protocol) is settled there alike. nil: it
// would not be accepted as it is.
func (rt *runtime) chainFor(d *downstream, old *chain) *chain {
	l := rt.byName[old.listener.Name]
	if l == nil {
		return nil
	}
	if l == old.listener { // shared by both runtimes
		return old
	}
	c := l.match(d.local, d.hello)
	if c == nil || (c.HTTP == nil) != (old.HTTP == nil) || !sameTLS(c.TLS, old.TLS) {
		return nil
	}
	return c
}

// sameTLS compares all that a handshake has verified; the protocols offered in
// it play no role afterwards.
func sameTLS(a, b *ir.DownstreamTLS) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.ALPN, y.ALPN = nil, nil
	return reflect.DeepEqual(x, y)
}

func selfPeer(n ir.Node) *telemetry.Peer {
	first := func(keys ...string) string {
		for _, k := range keys {
			if v := n.Labels[k]; v != "" {
				return v
			}
		}
		return ""
	}
	workload := n.WorkloadName
	if workload == "" {
		workload = n.Name
	}
	return &telemetry.Peer{
		Workload: workload, Namespace: n.Namespace, Principal: n.Principal(), Cluster: n.ClusterID,
		App: first("app"), Version: first("version"),
		CanonicalService:  firstOr(first("service.istio.io/canonical-name", "app.kubernetes.io/name", "app"), workload),
		CanonicalRevision: firstOr(first("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"), "latest"),
	}
}

func firstOr(v, fallback string) string {
	if v == "" {
		return fallback
	}
	return v
}

// peerHeader carries what the standard metrics say of the caller, once per
// mutual TLS connection between two sidecars; it is never forwarded.
const peerHeader = "x-tulle-peer"

func introduce(p *telemetry.Peer) string {
	clean := func(s string) string { return strings.ReplaceAll(s, ";", "") }
	return strings.Join([]string{clean(p.Workload), clean(p.Namespace), clean(p.App), clean(p.Version),
		clean(p.CanonicalService), clean(p.CanonicalRevision), clean(p.Cluster)}, ";")
}

// introduced reads what introduce wrote; the principal is what TLS proved, and
// a namespace that disagrees with it makes the whole introduction worthless.
func introduced(s, principal, namespace string) *telemetry.Peer {
	parts := strings.SplitN(strings.Clone(s), ";", 8)
	if len(parts) != 7 || parts[1] != namespace {
		return nil
	}
	return &telemetry.Peer{Principal: principal, Workload: parts[0], Namespace: parts[1], App: parts[2], Version: parts[3],
		CanonicalService: parts[4], CanonicalRevision: parts[5], Cluster: parts[6]}
}
