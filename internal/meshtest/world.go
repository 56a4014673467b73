// Package meshtest runs a whole mesh in one process for tests: the
// configuration path (resource, compile, xDS encoding and back), a proxy for
// every sidecar and gateway with certificates of a real authority, stock
// peers as applications, and a network in memory between them. Scripts say
// what to do and what must come of it; see README.md.
package meshtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwks"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/rego"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/telemetry"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// world is one mesh. Its methods belong to the goroutine that runs the script;
// applications and requests in the background touch only what has a lock.
type world struct {
	net       *network
	authority *ca.Authority
	signing   signing // what the authority signs with
	renewals  renewals
	public    *ca.Authority // signs the certificates of applications and externals
	docs      []document
	set       *resource.Set
	index     *compile.Index
	pods      map[string]*pod // by instance
	unready   map[string]bool // by instance
	gone      map[string]bool // instances that were stopped
	vips      map[string]netip.Addr
	addresses map[string]netip.Addr
	outside   *pod
	externals map[string]*pod // servers outside of the mesh, by name
	names     *names
	protocol  protocol
	log       *slog.Logger

	issuersMu   sync.Mutex
	issuers     map[string]*issuer // guarded by issuersMu; by name
	keys        *jwks.Resolver
	keysChanged atomic.Bool // and the configuration does not know yet
}

// pod is one instance: its namespace, its proxy if it has one, its application.
type pod struct {
	*resource.Workload
	host    *host
	proxy   *proxy.Proxy
	holder  *identity.Holder
	rotator *ca.Rotator // nil: the certificate stays as it is
	log     *accessLog
	app     *app
	client  *client

	stopped bool
}

// drainTime is Istio's terminationDrainDuration.
const drainTime = 5 * time.Second

func newWorld(p protocol) (*world, error) {
	authority, signs, err := newAuthority()
	if err != nil {
		return nil, err
	}
	public, err := ca.New("public")
	if err != nil {
		return nil, err
	}
	w := &world{
		public: public, externals: map[string]*pod{}, names: &names{known: map[string]nameAnswer{}},
		net: newNetwork(), authority: authority, signing: signs, pods: map[string]*pod{}, unready: map[string]bool{}, gone: map[string]bool{},
		vips: map[string]netip.Addr{}, addresses: map[string]netip.Addr{}, protocol: p, log: slog.New(slog.DiscardHandler), issuers: map[string]*issuer{},
	}
	w.keys = jwks.NewResolver(jwks.Options{Client: &http.Client{Transport: w}, Changed: func() { w.keysChanged.Store(true) }, Log: w.log})
	address := netip.MustParseAddr("203.0.113.9")
	w.outside = &pod{Workload: &resource.Workload{Name: "outside", Namespace: "default", Address: address}, host: w.net.host("outside", address)}
	w.outside.client = newClient(w, w.outside)
	return w, nil
}

// close ends everything; afterwards no goroutine of the world is left.
func (w *world) close() {
	w.keys.Close()
	w.renewals.stop()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	w.outside.client.close()
	for _, p := range w.externals {
		p.app.close()
	}
	for _, p := range w.pods {
		p.client.close()
		if p.app != nil {
			p.app.close()
		}
	}
	w.net.closeAll()
	for _, p := range w.pods {
		if p.proxy != nil && !p.stopped {
			p.proxy.Drain(now)
		}
	}
}

// reconcile puts w.docs in force: whole, as a control plane does with every
// edit. The problems are what the user is told.
func (w *world) reconcile() ([]resource.Problem, error) {
	var files []resource.File
	for _, d := range w.docs {
		files = append(files, resource.File{Name: d.file, Data: append([]byte(strings.Repeat("\n", d.line-1)), w.protocol.ports(w.fillKeys(d.text))...)})
	}
	set, problems := resource.Parse(files)
	w.assign(set)
	set.Workloads, set.Roots = w.workloads(set), w.authority.Roots()
	w.fetchKeys(set)
	w.set, w.index = set, compile.Prepare(set)
	w.translate()
	if err := w.startPods(); err != nil {
		return nil, err
	}
	for _, p := range w.pods {
		if p.proxy == nil || w.gone[p.Name] || p.stopped {
			continue
		}
		if err := w.push(p); err != nil {
			return nil, err
		}
	}
	w.stopPods()
	return append(problems, w.index.Problems()...), nil
}

// fetchKeys gives new sources of keys the time of their first answer, as the
// control plane does.
func (w *world) fetchKeys(set *resource.Set) {
	sources := compile.KeySources(set)
	w.keys.Want(sources)
	if len(sources) == 0 {
		return // and worlds without a bubble, which have no issuers, can be made
	}
	synctest.Wait()
	w.keysChanged.Store(false)
	set.KeySets = w.keys.Sets()
}

// push compiles for one proxy and carries the snapshot over the wire format.
func (w *world) push(p *pod) error {
	sent := w.index.Snapshot(w.index.Node(p.Workload))
	encoded, err := xds.Encode(sent)
	if err != nil {
		return fmt.Errorf("%s: encode: %w", p.Name, err)
	}
	received, err := xds.Decode(encoded, sent.Node)
	if err != nil {
		return fmt.Errorf("%s: decode: %w", p.Name, err)
	}
	if !agent.Trust(p.holder, received) && p.rotator != nil {
		p.rotator.Renew()
	}
	if err := p.proxy.Apply(received); err != nil {
		return fmt.Errorf("%s: NACK: %w", p.Name, err)
	}
	return nil
}

// startPods makes what the set has and the world has not.
func (w *world) startPods() error {
	for _, wl := range w.set.Workloads {
		if p := w.pods[wl.Name]; p != nil {
			p.Workload = wl
			continue
		}
		p := &pod{Workload: wl, host: w.net.host(wl.Name, wl.Address)}
		p.client = newClient(w, p)
		w.pods[wl.Name] = p
		if !wl.Gateway {
			var err error
			if p.app, err = w.newApp(p, w.appPorts(wl), wl.Owner, wl.Owner+"."+wl.Namespace); err != nil {
				return err
			}
		}
		if wl.Sidecar || wl.Gateway {
			if err := w.startProxy(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// newApp starts an application; names are what its own certificate is for, if
// it speaks TLS.
func (w *world) newApp(p *pod, ports map[uint16]string, names ...string) (*app, error) {
	cert, err := w.public.ServerCertificate(names...)
	if err != nil {
		return nil, err
	}
	return newApp(p.host, p.Workload, ports, cert)
}

// stopPods stops what the set has no more.
func (w *world) stopPods() {
	wanted := map[string]bool{}
	for _, wl := range w.set.Workloads {
		wanted[wl.Name] = true
	}
	for name, p := range w.pods {
		if !wanted[name] && !p.stopped {
			p.stopped = true
			p.stop()
		}
	}
}

func (w *world) startProxy(p *pod) error {
	id, err := identity.ParseID(w.index.Node(p.Workload).Principal())
	if err != nil {
		return err
	}
	p.holder = identity.NewHolder(id.TrustDomain)
	if w.renewals.ttl == 0 { // otherwise start has it renewed from the first one on
		if err := certify(w.authority, id, p.holder); err != nil {
			return err
		}
	}
	w.renewals.start(w, p)
	p.log = &accessLog{}
	o := agent.ProxyOptions(p.holder, rego.NewHost(io.Discard, slog.New(slog.DiscardHandler)))
	o.DebugKey = sha256.Sum256([]byte(debugCredential))
	o.Listen = func(_ context.Context, l *ir.Listener) (net.Listener, error) { return p.host.listen(l.Address) }
	o.Resolver = w.names
	o.OriginalDst, o.Dial, o.Log = originalDst, p.host.dialProxy, w.log
	o.OpenLog = func(string) (*telemetry.Logger, error) { return telemetry.NewLogger(p.log), nil }
	p.proxy = proxy.New(o)
	w.net.mu.Lock()
	p.host.captured = p.Sidecar
	w.net.mu.Unlock()
	return nil
}

// stop ends a pod as Kubernetes does: its endpoints are gone from every
// snapshot already, the sidecar drains, then the application goes.
func (p *pod) stop() {
	if p.proxy != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		p.proxy.Drain(ctx)
	}
	if p.app != nil {
		p.app.close()
	}
}

// certify issues an SVID as the agent gets it from the control plane.
func certify(a *ca.Authority, id identity.ID, h *identity.Holder) error {
	cert, roots, err := certificate(a, id)
	if err != nil {
		return err
	}
	return h.Set(cert, roots)
}

// certificate makes a key and has it signed.
func certificate(a *ca.Authority, id identity.ID) (cert tls.Certificate, roots []*x509.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return cert, nil, err
	}
	chain, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), id, ca.MaxTTL)
	if err != nil {
		return cert, nil, err
	}
	cert.PrivateKey = key
	for _, text := range chain[:len(chain)-1] {
		block, _ := pem.Decode([]byte(text))
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	roots, err = ca.ParseCertificates([]byte(chain[len(chain)-1]))
	return cert, roots, err
}

// podsNamed finds instances by their name, owner, app or component label.
func (w *world) podsNamed(name string) []*pod {
	var out []*pod
	for _, match := range []func(*pod) bool{
		func(p *pod) bool { return p.Name == name },
		func(p *pod) bool { return p.Owner == name },
		func(p *pod) bool { return p.Labels["app"] == name || p.Labels["app.kubernetes.io/component"] == name },
	} {
		for _, wl := range w.set.Workloads {
			if p := w.pods[wl.Name]; p != nil && match(p) {
				out = append(out, p)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	if e := w.externals[name]; e != nil {
		return []*pod{e}
	}
	return nil
}

// accessLog keeps a proxy's lines.
type accessLog struct {
	mu    sync.Mutex
	lines []string
	rest  string
}

var _ io.Writer = (*accessLog)(nil)

// Write implements io.Writer.
func (l *accessLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Split(l.rest+string(b), "\n")
	l.lines, l.rest = append(l.lines, all[:len(all)-1]...), all[len(all)-1]
	return len(b), nil
}

// since returns the lines after the first n.
func (l *accessLog) since(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines[min(n, len(l.lines)):]...)
}
