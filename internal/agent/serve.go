package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/admin"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// servers are the agent's own HTTP servers.
type servers struct {
	all []*http.Server
	wg  sync.WaitGroup
}

// serve opens the agent's ports: readiness and metrics where probes and
// scrapers reach them, the admin pages on loopback only.
func (a *agent) serve() (*servers, error) {
	metrics := admin.MetricsHandler(a.proxy)
	health := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := a.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	open := http.NewServeMux()
	open.Handle("GET /healthz/ready", health)
	open.Handle("GET /stats/prometheus", metrics)
	s := &servers{}
	for _, l := range []struct {
		host string
		port int
		h    http.Handler
	}{
		{"127.0.0.1", a.opts.Ports.Admin, a.pages(metrics)},
		{"", a.opts.Ports.Agent, open},
		{"", a.opts.Ports.Ready, only("/healthz/ready", health)},
		{"", a.opts.Ports.Metrics, only("/stats/prometheus", metrics)},
	} {
		if l.port == 0 {
			continue
		}
		if err := s.start(net.JoinHostPort(l.host, strconv.Itoa(l.port)), l.h); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func only(path string, h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+path, h)
	return mux
}

func (s *servers) start(addr string, h http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	s.all = append(s.all, srv)
	s.wg.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("agent: serve %s: %v", addr, err)) // Serve ends only with its listener
		}
	})
	return nil
}

func (s *servers) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, srv := range s.all {
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	}
	s.wg.Wait()
}

// pages are the sidecar's debug pages.
func (a *agent) pages(metrics http.Handler) http.Handler {
	p := admin.New("sidecar " + a.opts.Node.Name + "." + a.opts.Node.Namespace)
	p.JSON("/config_dump", "the snapshot in force", func() any { return a.proxy.Snapshot() })
	p.JSON("/clusters", "endpoints with health, ejection and load", func() any { return a.clusters() })
	p.JSON("/certs", "the certificates of sidecar and application now in use and what they chain to", func() any { return a.certificates() })
	p.JSON("/edges", "who has called this workload and what the connections proved", func() any { return a.proxy.Edges() })
	p.Handle("GET /denials", "the newest refusals, with what was considered; ?id= one of them", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		admin.WriteJSON(w, http.StatusOK, a.proxy.Denials(r.URL.Query().Get("id")))
	}))
	p.Handle("GET /failures", "the newest requests that the mesh failed for another reason than policy; ?id= those with an id or x-request-id", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		admin.WriteJSON(w, http.StatusOK, a.proxy.Failures(r.URL.Query().Get("id")))
	}))
	p.JSON("/server_info", "node, version, state", func() any {
		return map[string]any{"node": a.opts.Node, "version": a.proxy.Version(), "draining": a.proxy.Draining()}
	})
	p.Handle("GET /stats/prometheus", "metrics in Prometheus's text format", metrics)
	p.Handle("GET /ready", "LIVE when certificate and configuration are there", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := a.ready(); err != nil {
			http.Error(w, "NOT READY: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "LIVE")
	}))
	return p
}

// Certificates are the sidecar's own and the application's, as /certs shows
// them.
type Certificates struct {
	identity.Info
	Application *identity.Info `json:"application,omitempty"` // nil: it has asked for none
}

func (a *agent) certificates() Certificates {
	c := Certificates{Info: a.holder.Info()}
	if h := a.application.holder; h != nil && h.Serial() != "" {
		info := h.Info()
		c.Application = &info
	}
	return c
}

// ClusterStatus is one cluster with its endpoints, as /clusters shows it.
type ClusterStatus struct {
	Name      string           `json:"name"`
	Type      ir.ClusterType   `json:"type"`
	Endpoints []EndpointStatus `json:"endpoints,omitempty"`
}

// EndpointStatus is one endpoint as this proxy sees it.
type EndpointStatus struct {
	ir.Endpoint
	Status  string `json:"status"` // HEALTHY, UNHEALTHY, DRAINING
	Outlier string `json:"outlier"`
	Active  int64  `json:"activeRequests"`
}

func (a *agent) clusters() []ClusterStatus {
	var out []ClusterStatus
	for _, c := range a.proxy.Upstream().Clusters() {
		s := ClusterStatus{Name: c.Name, Type: c.Config().Type}
		for _, h := range c.Hosts() {
			e := EndpointStatus{Endpoint: h.Endpoint(), Status: "HEALTHY", Outlier: "OK", Active: h.Active()}
			if e.Health != ir.Healthy {
				e.Status = string(e.Health)
			}
			if h.Ejected() {
				e.Outlier = "EJECTED"
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		sort.Slice(s.Endpoints, func(i, j int) bool { return s.Endpoints[i].Address < s.Endpoints[j].Address })
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
