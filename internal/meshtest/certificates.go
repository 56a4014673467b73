package meshtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// signing is an authority's certificate and key: scripts make certificates
// with it that an authority never would.
type signing struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newSigning makes a self-signed authority.
func newSigning() (signing, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signing{}, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "mesh"}, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return signing{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return signing{cert, key}, err
}

// newAuthority is an authority of which the script has the key.
func newAuthority() (*ca.Authority, signing, error) {
	s, err := newSigning()
	if err != nil {
		return nil, s, err
	}
	i, err := ca.PlugIn(s.cert, s.key, nil, []*x509.Certificate{s.cert})
	if err != nil {
		return nil, s, err
	}
	return ca.NewAuthority(i), s, nil
}

// misidentify gives instances a certificate that is wrong in one respect.
func (w *world) misidentify(name, kind string) error {
	pods := w.podsNamed(name)
	if len(pods) == 0 {
		return fmt.Errorf("nobody is called %q", name)
	}
	by, now := w.signing, time.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	roots, err := ca.ParseCertificates(w.authority.Roots())
	if err != nil {
		return err
	}
	var uri string
	self := false
	switch {
	case kind == "good":
	case kind == "expired":
		tmpl.NotAfter = now.Add(-time.Minute)
	case kind == "not yet valid":
		tmpl.NotBefore = now.Add(time.Minute)
	case kind == "for servers only":
		tmpl.ExtKeyUsage = tmpl.ExtKeyUsage[1:]
	case kind == "for clients only":
		tmpl.ExtKeyUsage = tmpl.ExtKeyUsage[:1]
	case kind == "self-signed":
		self = true
	case kind == "of another authority", kind == "of a root that was removed":
		if by, err = newSigning(); err != nil {
			return err
		}
		if kind == "of a root that was removed" {
			for _, p := range w.pods {
				if p.holder != nil {
					p.holder.SetBundle(append(roots[:len(roots):len(roots)], by.cert))
					p.holder.SetBundle(roots)
				}
			}
		}
	case strings.HasPrefix(kind, "spiffe://"):
		uri = kind
	default:
		return fmt.Errorf("%q is no kind of certificate", kind)
	}
	for _, p := range pods {
		if p.holder == nil {
			return fmt.Errorf("%s has no sidecar", p.Name)
		}
		id := uri
		if id == "" {
			id = w.index.Node(p.Workload).Principal()
		}
		u, err := url.Parse(id)
		if err != nil {
			return err
		}
		tmpl.URIs = []*url.URL{u}
		if err := present(p.holder, tmpl, by, self, roots); err != nil {
			return err
		}
	}
	return nil
}

func present(h *identity.Holder, tmpl *x509.Certificate, by signing, self bool, roots []*x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if self {
		by = signing{tmpl, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key.Public(), by.key)
	if err != nil {
		return err
	}
	return h.Set(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots)
}

// renewals are the instances' own: each asks the authority's service anew, as
// its agent does.
type renewals struct {
	ttl    time.Duration // 0: certificates stay as they are
	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
}

// renewals begins "certificates live DURATION".
func (r *runner) renewals(rest string) error {
	text, ok := strings.CutPrefix(rest, "live ")
	ttl, err := time.ParseDuration(text)
	if !ok || err != nil || len(r.world.pods) > 0 {
		return fmt.Errorf("want, before any configuration, %q", "certificates live DURATION")
	}
	n := &r.world.renewals
	n.ttl = ttl
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return nil
}

func (n *renewals) start(w *world, p *pod) {
	if n.ttl == 0 || p.holder == nil || p.rotator != nil {
		return
	}
	id, err := identity.ParseID(w.index.Node(p.Workload).Principal())
	if err != nil {
		return // startProxy has said so
	}
	tokens := ca.NewTokens()
	conn := &direct{token: tokens.Issue(id)}
	ca.Register(conn, w.authority, tokens)
	p.rotator = ca.NewRotator(ca.RotatorOptions{Conn: conn, Holder: p.holder, TTL: n.ttl, Log: w.log})
	n.wg.Go(func() { _ = p.rotator.Run(n.ctx) }) // it ends with n.ctx only
	<-p.holder.Ready()
}

func (n *renewals) stop() {
	if n.cancel != nil {
		n.cancel()
		n.wg.Wait()
	}
}

// rotate changes the root and returns when the old one is gone, which takes as
// long as certificates live.
func (r *runner) rotate(st *step, rest string) error {
	if rest != "root" || r.world.renewals.ttl == 0 {
		return fmt.Errorf("want %q, after %q", "rotate root", "certificates live DURATION")
	}
	next, err := ca.NewIssuer("cluster.local")
	if err != nil {
		return err
	}
	return r.world.authority.Rotate(r.t.Context(), next, func(context.Context) error { return r.spread() })
}

// spread brings the trust bundle to one sidecar after the other, with time
// enough between them for renewals and new connections.
func (r *runner) spread() error {
	w := r.world
	set := *w.set
	set.Roots = w.authority.Roots()
	w.set, w.index = &set, compile.Prepare(&set)
	for _, wl := range w.set.Workloads {
		p := w.pods[wl.Name]
		if p.proxy == nil {
			continue
		}
		if err := w.push(p); err != nil {
			return err
		}
		r.pause(500 * time.Millisecond)
	}
	return nil
}

// direct is a connection to a gRPC service without a network.
type direct struct {
	desc  *grpc.ServiceDesc
	impl  any
	token string
}

// RegisterService implements grpc.ServiceRegistrar.
func (d *direct) RegisterService(desc *grpc.ServiceDesc, impl any) { d.desc, d.impl = desc, impl }

// Invoke implements grpc.ClientConnInterface.
func (d *direct) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+d.token))
	for _, m := range d.desc.Methods {
		if method != "/"+d.desc.ServiceName+"/"+m.MethodName {
			continue
		}
		out, err := m.Handler(d.impl, ctx, func(in any) error {
			proto.Merge(in.(proto.Message), args.(proto.Message))
			return nil
		}, nil)
		if err != nil {
			return err
		}
		proto.Merge(reply.(proto.Message), out.(proto.Message))
		return nil
	}
	return status.Error(codes.Unimplemented, method)
}

// NewStream implements grpc.ClientConnInterface.
func (d *direct) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams")
}
