package main

import (
	"context"
	_ "embed"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/tulle-mesh/tulle/bench/rig"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

//go:embed pair.yaml
var manifests []byte

// Ports of pair.yaml's services; the server's sidecar listens on the next one.
const (
	httpPort = 18401
	tcpPort  = 18411
	h2Port   = 18421
	grpcPort = 18431
)

// backends are what the server's sidecar forwards to instead of the original
// destination. nginx's ports are those of the reference script.
var backends = map[uint16]string{
	httpPort: "127.0.0.1:18080",
	tcpPort:  "127.0.0.1:18082",
	h2Port:   "127.0.0.1:18081",
	grpcPort: "127.0.0.1:18083",
}

// pair is the two sidecars and the control plane that feeds them.
type pair struct {
	control        *rig.Control
	client, server *rig.Process
	clientNode     ir.Node
	snapshots      map[string]*ir.Snapshot
}

func startPair(ctx context.Context, dir, binary string, env []string) (*pair, error) {
	workload := func(name string) *resource.Workload {
		return &resource.Workload{Name: name + "-0", Namespace: "bench", Owner: name, OwnerKind: "Deployment", ServiceAccount: name,
			Labels: map[string]string{"app": name}, Address: netip.MustParseAddr("127.0.0.1"), Ready: true, Sidecar: true}
	}
	client, server := workload("client"), workload("server")
	for port := range backends {
		server.Ports = append(server.Ports, resource.WorkloadPort{Port: port + 1})
	}
	set, problems := resource.Parse([]resource.File{{Name: "pair.yaml", Data: manifests}})
	set.Workloads = []*resource.Workload{client, server}
	index := compile.Prepare(set)
	for _, problem := range append(problems, index.Problems()...) {
		if problem.Severity != resource.Warning {
			return nil, fmt.Errorf("pair.yaml: %v", problem)
		}
	}
	p := &pair{clientNode: index.Node(client), snapshots: map[string]*ir.Snapshot{
		client.Name: clientSide(index.Snapshot(index.Node(client))),
		server.Name: serverSide(index.Snapshot(index.Node(server))),
	}}
	var err error
	if p.control, err = rig.NewControl(ctx, dir, binary, p.snapshots); err != nil {
		return nil, err
	}
	env = append([]string{"GOMAXPROCS=1"}, env...) // as the peers have one thread
	if p.client, err = p.control.Sidecar(ctx, index.Node(client), clientDebug, env...); err != nil {
		p.stop()
		return nil, err
	}
	if p.server, err = p.control.Sidecar(ctx, index.Node(server), serverDebug, env...); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// Debug ports of the sidecars.
const clientDebug, serverDebug = 18500, 18510

func (p *pair) stop() {
	for _, s := range []*rig.Process{p.client, p.server} {
		if s != nil {
			s.Stop()
		}
	}
	p.control.Stop()
}

// http2 reports whether the pair serves the service on port as HTTP/2, not as
// bytes.
func (p *pair) http2(port uint16) bool {
	for _, l := range p.snapshots[p.clientNode.Name].Listeners {
		if l.Address.Port() == port {
			for _, c := range append(l.Chains, l.Default) {
				if c != nil && c.HTTP != nil {
					return true
				}
			}
		}
	}
	return false
}

// clientSide makes the outbound listeners of the services' ports listen
// themselves, because nothing redirects to them here.
func clientSide(s *ir.Snapshot) *ir.Snapshot {
	out := *s
	out.Listeners = nil
	for _, l := range s.Listeners {
		if backends[l.Address.Port()] != "" {
			c := *l
			c.Bind, c.Address = true, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), l.Address.Port())
			out.Listeners = append(out.Listeners, &c)
		}
	}
	return out.Seal()
}

// serverSide makes one inbound listener for each of the workload's ports, and
// each forwards to the benchmark's backend.
func serverSide(s *ir.Snapshot) *ir.Snapshot {
	out := *s
	out.Listeners, out.Clusters = nil, nil
	for _, l := range s.Listeners {
		if l.Direction != ir.Inbound {
			continue
		}
		for port := range backends {
			c := *l
			c.Name, c.UseOriginalDst = l.Name+strconv.Itoa(int(port)), false
			c.Address = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port+1)
			out.Listeners = append(out.Listeners, &c)
		}
	}
	for _, cl := range s.Clusters {
		for port, backend := range backends {
			if cl.Name == fmt.Sprintf("inbound|%d||", port+1) {
				c := *cl
				c.Type, c.LB, c.BindSource = ir.Static, ir.RoundRobin, netip.Addr{}
				c.Endpoints = &ir.EndpointSet{Cluster: c.Name, Endpoints: []ir.Endpoint{{Address: backend}}}
				cl = &c
				break
			}
		}
		out.Clusters = append(out.Clusters, cl)
	}
	return out.Seal()
}
