package up

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// keyClient fetches the keys of token issuers. One that is a service of this
// mesh is asked where it runs, past its sidecar, as explain asks authorizers:
// the room has no address of its own that a service would lead from. Everybody
// else is reached as from any process of the machine.
func (r *room) keyClient() *http.Client {
	dialer := &net.Dialer{}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			switch w, at, ours := r.issuer(host, port); {
			case w != nil:
				return r.machine.DialLocal(ctx, w.Key(), int(at))
			case ours:
				return nil, fmt.Errorf("no instance of %s is ready yet", host)
			}
			return dialer.DialContext(ctx, network, address)
		},
		Proxy: func(req *http.Request) (*url.URL, error) {
			port := req.URL.Port()
			if port == "" {
				port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
			}
			if _, _, ours := r.issuer(req.URL.Hostname(), port); ours {
				return nil, nil
			}
			return http.ProxyFromEnvironment(req)
		},
		IdleConnTimeout: 10 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
	}}
}

// issuer is an instance that is ready behind a service of the mesh, and
// whether the host is one. Before the first configuration every name that
// only a cluster has is taken for one.
func (r *room) issuer(host, port string) (w *resource.Workload, at uint16, ours bool) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, 0, false
	}
	s := r.control.State()
	if s == nil {
		return nil, 0, strings.HasSuffix(host, ".svc.cluster.local") || strings.HasSuffix(host, ".svc")
	}
	if all, _ := s.Index.Instances(host, "", uint16(n)); all != nil {
		return all[0].Workload, all[0].Port, true
	}
	return nil, 0, s.Index.ServicePorts(host, "") != nil
}
