package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// hops says what each hop of a pair speaks.
type hops struct{ down, between, app string }

func (h hops) String() string { return h.down + "-" + h.between + "-" + h.app }

// allHops are the combinations of HTTP/1.1 and HTTP/2.
func allHops() (out []hops) {
	for _, d := range []string{"http1", "http2"} {
		for _, b := range []string{"http1", "http2"} {
			for _, a := range []string{"http1", "http2"} {
				out = append(out, hops{d, b, a})
			}
		}
	}
	return out
}

// protocols makes net/http speak one protocol, in cleartext.
func protocols(name string) *http.Protocols {
	p := &http.Protocols{}
	if name == "http2" {
		p.SetUnencryptedHTTP2(true)
	} else {
		p.SetHTTP1(true)
	}
	return p
}

// newMeshOver is newMesh with the protocols of h, and a client that speaks
// h.down.
func newMeshOver(t testing.TB, h hops, app http.Handler, edit func(*mesh)) (*mesh, *http.Client) {
	t.Helper()
	m := newMesh(t, nil, func(m *mesh) {
		server := httptest.NewUnstartedServer(app)
		server.Config.Protocols = protocols(h.app)
		// What nobody reads waits in the application, not in megabytes of the
		// kernel's memory for each connection, which all of TCP shares.
		server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			c.(*net.TCPConn).SetWriteBuffer(64 << 10)
			return ctx
		}
		server.Start()
		m.app.Close()
		m.app = server
		m.snapB.Clusters[0].Endpoints.Endpoints[0].Address = server.Listener.Addr().String()
		m.snapB.Clusters[0].HTTP.Protocol = h.app
		m.snapA.Clusters[0].HTTP.Protocol = h.between
		m.snapA.Clusters[0].AutoTLS.ALPN = []string{"istio-h2", "istio-http/1.1", "istio"}
		m.snapB.Listeners[0].Chains[0].TLS.ALPN = []string{"istio-h2", "istio-http/1.1", "istio"}
		if edit != nil {
			edit(m)
		}
	})
	client := &http.Client{Transport: &http.Transport{Protocols: protocols(h.down), DisableCompression: true}, Timeout: 20 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	return m, client
}

// Every combination of protocols carries requests, bodies and trailers both
// ways, and says what it spoke.
func TestProtocolsMix(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "x-sum")
		w.Header().Set("x-proto", r.Proto)
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
		w.Header().Set("x-sum", fmt.Sprint(len(b), r.Trailer.Get("x-end")))
	})
	for _, h := range allHops() {
		t.Run(h.String(), func(t *testing.T) {
			m, client := newMeshOver(t, h, app, nil)
			for _, size := range []int{0, 1, 1000, 65_536, 65_537, 3 << 20} {
				payload := bytes.Repeat([]byte("tulle."), size/6+1)[:size]
				for _, open := range []bool{false, true} {
					var body io.Reader = bytes.NewReader(payload)
					if open {
						body = io.MultiReader(body) // hides the length
					}
					req, _ := http.NewRequest("POST", m.url+"/echo?n=1", body)
					want := fmt.Sprint(size)
					if open && size > 0 {
						req.Trailer = http.Header{"X-End": {"yes"}}
						want += "yes"
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(size, open, err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || !bytes.Equal(got, payload) {
						t.Fatalf("size %d open %v: %s, %d bytes back, %v", size, open, resp.Status, len(got), err)
					}
					if resp.Trailer.Get("x-sum") != want {
						t.Errorf("size %d open %v: trailer %q, want %q", size, open, resp.Trailer.Get("x-sum"), want)
					}
					if proto := map[string]string{"http1": "HTTP/1.1", "http2": "HTTP/2.0"}; resp.Header.Get("x-proto") != proto[h.app] || resp.Proto != proto[h.down] {
						t.Fatalf("the application saw %s, the client %s", resp.Header.Get("x-proto"), resp.Proto)
					}
				}
			}
			wire := map[string]string{"http1": "HTTP/1.1", "http2": "HTTP/2"}
			m.logA.wait(t, `"POST /echo?n=1 `+wire[h.down]+`" 200 - via_upstream`)
			m.logB.wait(t, `"POST /echo?n=1 `+wire[h.between]+`" 200 - via_upstream`)
		})
	}
}

// A stream's halves are independent: the response begins while the request is
// still going on.
func TestStreamsBothWays(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.WriteHeader(200)
		rc.Flush()
		buf := make([]byte, 16)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	for _, h := range []hops{{"http2", "http2", "http2"}, {"http2", "http1", "http2"}, {"http2", "http2", "http1"}} {
		t.Run(h.String(), func(t *testing.T) {
			m, client := newMeshOver(t, h, app, nil)
			pr, pw := io.Pipe()
			req, _ := http.NewRequest("POST", m.url, pr)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			for i := range 20 {
				text := fmt.Sprintf("message %02d", i)
				if _, err := io.WriteString(pw, text); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(text))
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != text {
					t.Fatal(string(got), err)
				}
			}
			pw.Close()
			if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
				t.Fatal(rest, err)
			}
		})
	}
}

// A caller that leaves takes its request with it, at once and on every hop.
func TestCallerLeaves(t *testing.T) {
	entered, left := make(chan struct{}), make(chan struct{})
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(left)
	})
	m, client := newMeshOver(t, hops{"http2", "http2", "http2"}, app, nil)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-entered; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, "GET", m.url, nil)
	if _, err := client.Do(req); err == nil {
		t.Fatal("answered")
	}
	select {
	case <-left:
	case <-time.NewTimer(10 * time.Second).C:
		t.Fatal("the application was never told")
	}
	m.logA.wait(t, " 0 DC ")
}

// gRPC callers read the proxy's own answers from grpc-status.
func TestGRPCLocalAnswers(t *testing.T) {
	m, client := newMeshOver(t, hops{"http2", "http2", "http2"}, http.NotFoundHandler(), func(m *mesh) {
		m.snapA.Routes[0].VirtualHosts[0].Routes = []*ir.Route{
			{Match: ir.RouteMatch{Path: &ir.Match{Kind: ir.Prefix, Value: "/empty"}}, Forward: &ir.Forward{Clusters: []ir.WeightedCluster{{Name: "empty"}}}},
		}
		m.snapA.Clusters = append(m.snapA.Clusters, &ir.Cluster{Name: "empty", Type: ir.EDS, Breaker: ir.DefaultBreaker(), HTTP: ir.HTTPUpstream{Protocol: "http2"}})
	})
	for path, want := range map[string]string{"/empty": "14", "/nowhere": "12"} {
		req, _ := http.NewRequest("POST", m.url+path, strings.NewReader("x"))
		req.Header.Set("content-type", "application/grpc+proto")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("grpc-status") != want || resp.Header.Get("content-type") != "application/grpc" {
			t.Errorf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
	}
	m.logA.wait(t, "POST /nowhere")
	if v := metric(m.a, "istio_requests_total{", `grpc_response_status="14"`, `request_protocol="grpc"`); v != "1" {
		t.Errorf("istio_requests_total of the refused call: %q", v)
	}
}

// A WebSocket crosses every mix of protocols: RFC 6455 and RFC 8441 are each
// other's translation.
func TestWebSocketOverBoth(t *testing.T) {
	for _, between := range []string{"http1", "http2"} {
		t.Run(between, func(t *testing.T) {
			m, _ := newMeshOver(t, hops{"http1", between, "http1"}, http.HandlerFunc(echoUpgrade), nil)
			conn, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: w\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly")
			got := make([]byte, 4096)
			n := 0
			for !strings.Contains(string(got[:n]), "\r\n\r\nearly") {
				k, err := conn.Read(got[n:])
				if err != nil {
					t.Fatalf("%v after %q", err, got[:n])
				}
				n += k
			}
			head := strings.ToLower(string(got[:n]))
			for _, want := range []string{"http/1.1 101", "upgrade: websocket", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="} {
				if !strings.Contains(head, want) {
					t.Errorf("no %q in %q", want, head)
				}
			}
		})
	}
}

// echoUpgrade accepts any WebSocket handshake and echoes bytes.
func echoUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-WebSocket-Key") == "" {
		http.Error(w, "not a handshake", 400)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", websocketAccept(r.Header.Get("Sec-WebSocket-Key")))
	io.Copy(conn, rw)
}
