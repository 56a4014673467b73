package up

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"
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
			if w, at := r.issuer(host, port); w != nil {
				return r.machine.DialLocal(ctx, w.Name, int(at))
			}
			return dialer.DialContext(ctx, network, address)
		},
		Proxy: func(req *http.Request) (*url.URL, error) {
			port := req.URL.Port()
			if port == "" {
				port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
			}
			if w, _ := r.issuer(req.URL.Hostname(), port); w != nil {
				return nil, nil
			}
			return http.ProxyFromEnvironment(req)
		},
		IdleConnTimeout: 10 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
	}}
}

// issuer is an instance that is ready behind a service of the mesh; nil for a
// host that is none, or before the first configuration.
func (r *room) issuer(host, port string) (*resource.Workload, uint16) {
	s := r.control.State()
	n, err := strconv.ParseUint(port, 10, 16)
	if s == nil || err != nil {
		return nil, 0
	}
	return s.Index.Instance(host, "", uint16(n))
}
