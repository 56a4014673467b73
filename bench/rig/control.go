package rig

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Control is a certificate authority and an xDS server for sidecars that are
// measured. It gives each node the snapshot of its name.
type Control struct {
	authority *ca.Authority
	tokens    *ca.Tokens
	server    *grpc.Server
	address   string
	dir       string
	binary    string
	snapshots map[string]*ir.Snapshot
}

// NewControl builds cmd/tulle-proxy into dir unless binary names one, and
// serves. Snapshots must not change afterwards.
func NewControl(ctx context.Context, dir, binary string, snapshots map[string]*ir.Snapshot) (*Control, error) {
	if binary == "" {
		binary = filepath.Join(dir, "tulle-proxy")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/tulle-proxy").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build tulle-proxy: %w\n%s", err, out)
		}
	}
	c := &Control{tokens: ca.NewTokens(), dir: dir, binary: binary, snapshots: snapshots}
	var err error
	if c.authority, err = ca.New("cluster.local"); err != nil {
		return nil, err
	}
	cert, err := c.authority.ServerCertificate("istiod.istio-system.svc")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.address = l.Addr().String()
	c.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})))
	ca.Register(c.server, c.authority, c.tokens)
	xds.NewServer(xds.Options{Log: slog.New(slog.DiscardHandler), Disconnected: func(*xds.Conn) {},
		Authorize: func(context.Context, ir.Node) error { return nil },
		Connected: func(conn *xds.Conn) { conn.Push(c.snapshots[conn.Node().Name]) },
	}).Register(c.server)
	go func() { _ = c.server.Serve(l) }() // ends with Stop
	return c, nil
}

// Binary is the proxy that sidecars run.
func (c *Control) Binary() string { return c.binary }

// Stop ends the control plane.
func (c *Control) Stop() { c.server.Stop() }

// ClientTLS is what a workload of this name presents and demands: for load that
// goes to a sidecar's inbound side without a sidecar of its own.
func (c *Control) ClientTLS(n ir.Node) (*tls.Config, error) {
	id, err := identity.ParseID(n.Principal())
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	chain, err := c.authority.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), id, 0)
	if err != nil {
		return nil, err
	}
	cert := tls.Certificate{PrivateKey: key}
	// The last of the chain is the root, which the peer has.
	for _, text := range chain[:len(chain)-1] {
		for rest := []byte(text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			cert.Certificate = append(cert.Certificate, block.Bytes)
		}
	}
	return ClientConfig(cert), nil
}

// ClientConfig presents cert and takes every server: the load generator's own
// work is kept small, because it shares the machine with what is measured.
func ClientConfig(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
}

// Sidecar starts a sidecar with debug ports from firstPort on and waits until
// it is ready.
func (c *Control) Sidecar(ctx context.Context, n ir.Node, firstPort int, env ...string) (*Process, error) {
	ports := agent.Ports{Admin: firstPort, Agent: firstPort + 1, Ready: firstPort + 2, Metrics: firstPort + 3}
	spec := &agent.Spec{Node: n, Discovery: c.address, RootCA: string(c.authority.Roots()), Shared: true, Ports: ports}
	argv, specEnv := spec.Command(c.binary)
	id, err := identity.ParseID(n.Principal())
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	_, _ = w.WriteString(c.tokens.Issue(id)) // far below a pipe's capacity
	w.Close()
	p, err := Start(c.dir, n.Name, argv, append(specEnv, env...), r)
	if err != nil {
		return nil, err
	}
	if err := p.awaitReady(ctx, ports.Ready); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Process) awaitReady(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return poll(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", port), nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		return fmt.Errorf("sidecar %s does not become ready:\n%s", p.Name, p.Log())
	})
}
