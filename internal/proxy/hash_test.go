package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// hashing is a mesh whose worker is several servers that say who they are.
func hashing(t *testing.T, policy ir.HashPolicy) *mesh {
	t.Helper()
	var endpoints []ir.Endpoint
	for i := range 8 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, i) }))
		t.Cleanup(s.Close)
		endpoints = append(endpoints, ir.Endpoint{Address: s.Listener.Addr().String()})
	}
	return newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		m.snapA.Clusters[0].LB = ir.RingHash
		m.snapA.Endpoints = []*ir.EndpointSet{{Cluster: "worker", Endpoints: endpoints}}
		m.snapA.Routes[0].VirtualHosts[0].Routes[0].Forward.HashPolicy = []ir.HashPolicy{policy}
	})
}

func TestHashByHeaderAndQuery(t *testing.T) {
	for name, policy := range map[string]ir.HashPolicy{"header": {Header: "x-user"}, "query": {Query: "user"}} {
		m := hashing(t, policy)
		seen := map[string]bool{}
		for user := range 40 {
			var first string
			for range 3 {
				_, body := m.get(fmt.Sprintf("/?a=b&user=u%d", user), func(r *http.Request) { r.Header.Set("x-user", fmt.Sprint("u", user)) })
				if first == "" {
					first = body
				}
				if body != first {
					t.Fatalf("%s: one user is answered by %s and %s", name, first, body)
				}
			}
			seen[first] = true
		}
		if len(seen) < 4 {
			t.Errorf("%s: 40 users share %d of 8 hosts", name, len(seen))
		}
	}
}

// A caller without the cookie gets one, and with it comes back to the same host.
func TestHashCookie(t *testing.T) {
	ttl := ir.Duration(time.Minute)
	m := hashing(t, ir.HashPolicy{Cookie: &ir.HashCookie{Name: "session", Path: "/shop", TTL: &ttl, Attributes: []string{"SameSite=Strict", "Secure"}}})
	resp, first := m.get("/")
	text := resp.Header.Get("set-cookie")
	for _, want := range []string{`session="`, "; Max-Age=60", "; Path=/shop", "; SameSite=Strict", "; Secure", "; HttpOnly"} {
		if !strings.Contains(text, want) {
			t.Errorf("Set-Cookie %q lacks %q", text, want)
		}
	}
	cookie, _, _ := strings.Cut(text, ";")
	for range 5 {
		http.DefaultClient.CloseIdleConnections() // another connection, the same session
		resp, body := m.get("/", func(r *http.Request) { r.Header.Set("cookie", "other=1; "+cookie) })
		if body != first || resp.Header.Get("set-cookie") != "" {
			t.Errorf("host %s instead of %s, Set-Cookie %q", body, first, resp.Header.Get("set-cookie"))
		}
	}
}

func TestHashCookieWithoutTTLIsNotMade(t *testing.T) {
	m := hashing(t, ir.HashPolicy{Cookie: &ir.HashCookie{Name: "session"}})
	if resp, _ := m.get("/"); resp.Header.Get("set-cookie") != "" {
		t.Errorf("Set-Cookie %q", resp.Header.Get("set-cookie"))
	}
}

// A TCP connection goes through a forward proxy's CONNECT; what the far side
// says at once is not lost, and a refusal ends the connection.
func TestTunnel(t *testing.T) {
	for _, status := range []string{"200 OK", "403 Forbidden"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			req, err := http.ReadRequest(r)
			if err != nil {
				asked <- err.Error()
				return
			}
			asked <- req.Method + " " + req.Host
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\nwelcome", status)
			line, _ := r.ReadString('\n')
			fmt.Fprint(conn, "echo "+line)
		}()
		p := New(Options{})
		zero := netip.MustParseAddrPort(listenAddr)
		snap := &ir.Snapshot{
			Listeners: []*ir.Listener{{Name: "out", Address: zero, Direction: ir.Outbound, Bind: true, Chains: []*ir.FilterChain{{Name: "tcp",
				TCP: &ir.TCPProxy{Clusters: []ir.WeightedCluster{{Name: "far"}}, Tunnel: &ir.Tunnel{Target: "db.example:5432"}}}}}},
			Clusters: []*ir.Cluster{{Name: "far", Type: ir.Static, Breaker: ir.DefaultBreaker(), Endpoints: &ir.EndpointSet{Cluster: "far", Endpoints: []ir.Endpoint{{Address: l.Addr().String()}}}}},
		}
		if err := p.Apply(snap.Seal()); err != nil {
			t.Fatal(err)
		}
		var got []byte
		conn, err := net.Dial("tcp", p.Addr(zero).String())
		switch {
		case err == nil:
			fmt.Fprint(conn, "hello\n")
			got, _ = io.ReadAll(conn)
			conn.Close()
		case status == "200 OK": // a refusal may reset the connection before Dial has returned
			t.Fatal(err)
		}
		if a := <-asked; a != "CONNECT db.example:5432" {
			t.Errorf("the forward proxy was asked %q", a)
		}
		want := "welcomeecho hello\n"
		if status != "200 OK" {
			want = ""
		}
		if string(got) != want {
			t.Errorf("%s: read %q, want %q", status, got, want)
		}
		l.Close()
		p.Drain(t.Context())
	}
}
