package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/bench/rig"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

const inboundPort = 18530

// idleMesh has one server whose inbound side takes mutual TLS only.
const idleMesh = `
apiVersion: v1
kind: Service
metadata: {name: server, namespace: large}
spec: {clusterIP: 10.96.0.1, selector: {app: server}, ports: [{name: http, port: 18530}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: large}
spec: {mtls: {mode: STRICT}}
`

// connections measures n connections that have each carried one request and
// stand idle since. resumed: their clients come back with a TLS session, as
// sidecars do, so that the peer's certificate is parsed once for all.
func (m *meter) connections(ctx context.Context, n int, resumed bool, bar int64) error {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer backend.Close()
	set, problems := resource.Parse([]resource.File{{Name: "idle.yaml", Data: []byte(idleMesh)}})
	if len(problems) > 0 {
		return fmt.Errorf("%v", problems[0])
	}
	server := workload("server-0", "server", netip.MustParseAddr("127.0.0.1"))
	server.Ports = []resource.WorkloadPort{{Name: "http", Port: inboundPort}}
	set.Workloads = []*resource.Workload{server}
	index := compile.Prepare(set)
	node := index.Node(server)
	control, err := rig.NewControl(ctx, m.dir, m.binary, map[string]*ir.Snapshot{node.Name: inboundOnly(index.Snapshot(node), backend.Listener.Addr().String())})
	if err != nil {
		return err
	}
	defer control.Stop()
	sidecar, err := control.Sidecar(ctx, node, firstPort)
	if err != nil {
		return err
	}
	defer sidecar.Stop()
	conf, err := control.ClientTLS(node)
	if err != nil {
		return err
	}
	name := "full handshake"
	if resumed {
		name, conf.ClientSessionCache = "resumed", tls.NewLRUClientSessionCache(1)
	}
	// A few connections first: what the first ones need once is not theirs.
	warm, err := open(ctx, conf, 64)
	defer closeAll(warm)
	if err != nil {
		return err
	}
	before, anonBefore, err := settled(ctx, sidecar)
	if err != nil {
		return err
	}
	all, err := open(ctx, conf, n)
	defer closeAll(all)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, sidecar.Log())
	}
	after, anonAfter, err := settled(ctx, sidecar)
	if err != nil {
		return err
	}
	m.rows = append(m.rows,
		row{fmt.Sprintf("per idle mTLS connection (of %d), %s", n, name), (after - before) / int64(n), bar},
		row{"the same, anonymous", (anonAfter - anonBefore) / int64(n), bar})
	return nil
}

// inboundOnly listens on the workload's port itself and forwards to backend.
func inboundOnly(s *ir.Snapshot, backend string) *ir.Snapshot {
	out := *s
	out.Listeners, out.Clusters = nil, nil
	for _, l := range s.Listeners {
		if l.Direction == ir.Inbound {
			c := *l
			c.UseOriginalDst, c.Address = false, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), inboundPort)
			out.Listeners = append(out.Listeners, &c)
		}
	}
	for _, cl := range s.Clusters {
		if cl.Name == fmt.Sprintf("inbound|%d||", inboundPort) {
			c := *cl
			c.Type, c.LB, c.BindSource = ir.Static, ir.RoundRobin, netip.Addr{}
			c.Endpoints = &ir.EndpointSet{Cluster: c.Name, Endpoints: []ir.Endpoint{{Address: backend}}}
			cl = &c
		}
		out.Clusters = append(out.Clusters, cl)
	}
	return out.Seal()
}

// open makes n connections, 16 at a time, and sends a request on each.
func open(ctx context.Context, conf *tls.Config, n int) ([]net.Conn, error) {
	all := make([]net.Conn, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range all {
		g.Go(func() (err error) {
			all[i], err = openOne(ctx, conf)
			return err
		})
	}
	return all, g.Wait()
}

func openOne(ctx context.Context, conf *tls.Config) (net.Conn, error) {
	c, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", inboundPort))
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: server\r\n\r\n"); err != nil {
		return c, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c, errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return c, err
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}
