package up

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/internal/admin"
	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// serveCommands opens the sockets through which other commands find this run.
// They lie in a folder that only its user can enter.
func (r *room) serveCommands(ctx context.Context, g *errgroup.Group) error {
	api, err := net.Listen("unix", filepath.Join(r.spec.Dir, apiSocket))
	if err != nil {
		return err
	}
	exec, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(r.spec.Dir, execSocket), Net: "unix"})
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: r.handler(), ReadHeaderTimeout: 10 * time.Second}
	g.Go(func() error {
		if err := srv.Serve(api); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		r.machine.ServeExec(exec)
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		exec.Close()
		return srv.Close()
	})
	return nil
}

// handler adds this machine's part to the control plane's API.
func (r *room) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", r.control.Handler())
	mux.HandleFunc("GET /v1/workloads", func(w http.ResponseWriter, _ *http.Request) { admin.WriteJSON(w, http.StatusOK, r.status()) })
	mux.HandleFunc("GET /v1/logs/{workload}", r.logs)
	mux.HandleFunc("GET /v1/sidecars/{workload}/{page...}", r.sidecarPage)
	mux.HandleFunc("GET /v1/mtls", r.mtls)
	mux.HandleFunc("GET /v1/edges", r.edges)
	mux.HandleFunc("GET /v1/denials", r.denials)
	mux.HandleFunc("GET /v1/failures", r.failures)
	mux.HandleFunc("GET /v1/ca", func(w http.ResponseWriter, _ *http.Request) { admin.WriteJSON(w, http.StatusOK, r.authority.Status()) })
	mux.HandleFunc("POST /v1/ca/rotate", r.rotateNow)
	mux.HandleFunc("GET /v1/ca/retire", r.retirement)
	mux.HandleFunc("POST /v1/ca/retire", r.retire)
	return mux
}

func (r *room) logs(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	container := q.Get("container")
	if container == "" {
		container = machine.AppContainer
	}
	o, err := logOptions(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := r.machine.Logs(req.Context(), req.PathValue("workload"), container, o, flusher{w, http.NewResponseController(w)}); err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
}

func logOptions(q url.Values) (o machine.LogOptions, err error) {
	o = machine.LogOptions{Follow: q.Get("follow") == "true", Timestamps: q.Get("timestamps") == "true", Tail: -1}
	if s := q.Get("tail"); s != "" {
		if o.Tail, err = strconv.Atoi(s); err != nil {
			return o, err
		}
	}
	if s := q.Get("since"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			return o, err
		}
		o.Since = time.Now().Add(-d)
	}
	return o, nil
}

// flusher sends each line at once.
type flusher struct {
	io.Writer
	rc *http.ResponseController
}

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.Writer.Write(b)
	_ = f.rc.Flush() // not supported: it comes later
	return n, err
}

// sidecarPage shows a page of a sidecar's admin port, which only its own
// network can reach.
func (r *room) sidecarPage(w http.ResponseWriter, req *http.Request) {
	workload := req.PathValue("workload")
	rp := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: "localhost"})
			p.Out.URL.Path = "/" + req.PathValue("page")
		},
		Transport: r.sidecarTransport(workload),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	rp.ServeHTTP(w, req)
}

// MTLSCheck is what one port of one workload answers to another workload, with
// the policy that says how it must.
type MTLSCheck struct {
	From      string             `json:"from"`
	To        string             `json:"to"`
	Address   string             `json:"address"`
	Mode      string             `json:"mode"`
	Policy    ir.Origin          `json:"policy"`
	Handshake *identity.Evidence `json:"handshake,omitempty"`
	Refused   string             `json:"refused,omitempty"` // why the handshake failed
	Plaintext string             `json:"plaintext"`         // "refused", "accepted" or what else happened
	OK        bool               `json:"ok"`
}

// mtls makes real handshakes with the caller's identity and sends real
// plaintext, from the room's own address: what is known of callers and denials
// stays theirs (probed).
func (r *room) mtls(w http.ResponseWriter, req *http.Request) {
	s := r.control.State()
	if s == nil {
		http.Error(w, "no configuration yet", http.StatusServiceUnavailable)
		return
	}
	from, to := req.URL.Query().Get("from"), req.URL.Query().Get("to")
	var sources, targets []*resource.Workload
	for _, x := range r.machine.Workloads() {
		if (x.Sidecar || x.Gateway) && x.Naming().Matches(from) {
			sources = append(sources, x)
		}
		if x.Sidecar && x.Naming().Matches(to) {
			targets = append(targets, x)
		}
	}
	if len(sources) == 0 || len(targets) == 0 {
		http.Error(w, fmt.Sprintf("no workload in the mesh matches --from %q --to %q", from, to), http.StatusNotFound)
		return
	}
	checks, label := []MTLSCheck{}, resource.Shortest(r.machine.Workloads(), (*resource.Workload).Naming)
	for _, t := range targets {
		source := sources[0] // one caller is evidence enough for each target
		if source == t && len(sources) > 1 {
			source = sources[1]
		}
		for _, p := range t.Ports {
			c := MTLSCheck{From: label(source), To: label(t), Address: netip.AddrPortFrom(t.Address, p.Port).String()}
			c.Mode, c.Policy = s.Index.PeerMode(t.Namespace, t.Labels, p.Port)
			r.probe(req.Context(), source, &c)
			checks = append(checks, c)
		}
	}
	admin.WriteJSON(w, http.StatusOK, checks)
}

const probeTime = 3 * time.Second

func (r *room) probe(ctx context.Context, source *resource.Workload, c *MTLSCheck) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if ev, err := r.handshake(ctx, source, c.Address); err != nil {
		c.Refused = err.Error()
	} else {
		c.Handshake = ev
	}
	c.Plaintext = plaintext(ctx, c.Address)
	switch c.Mode {
	case "STRICT":
		c.OK = c.Handshake != nil && c.Plaintext == "refused"
	case "PERMISSIVE":
		c.OK = c.Handshake != nil
	default:
		c.OK = c.Plaintext != "refused"
	}
}

// handshake uses a fresh certificate of the caller's identity.
func (r *room) handshake(ctx context.Context, source *resource.Workload, addr string) (*identity.Evidence, error) {
	holder, err := r.borrow(identity.ID{TrustDomain: r.spec.TrustDomain, Namespace: source.Namespace, ServiceAccount: source.ServiceAccount})
	if err != nil {
		return nil, err
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	conn := tls.Client(raw, holder.Client(identity.ClientOptions{ALPN: []string{"istio"}}))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	e := identity.Describe(conn.ConnectionState())
	return &e, nil
}

// borrow issues a short-lived certificate for a probe.
func (r *room) borrow(id identity.ID) (*identity.Holder, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	chain, err := r.authority.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), id, 10*time.Minute)
	if err != nil {
		return nil, err
	}
	roots, err := ca.ParseCertificates(r.authority.Roots())
	if err != nil {
		return nil, err
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, text := range chain[:len(chain)-1] { // the last one is the root
		block, _ := pem.Decode([]byte(text))
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	h := identity.NewHolder(r.spec.TrustDomain)
	return h, h.Set(cert, roots)
}

// plaintext sends an HTTP request in the clear and says what became of it.
func plaintext(ctx context.Context, addr string) string {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "refused"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(probeTime))
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: tulle-probe\r\nConnection: close\r\n\r\n"); err != nil {
		return "refused"
	}
	var b [1]byte
	switch _, err := conn.Read(b[:]); {
	case err == nil:
		return "accepted"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "accepted (no answer)"
	}
	return "refused"
}
