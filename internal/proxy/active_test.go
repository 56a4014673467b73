package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// active is what least-request balancing knows of a cluster's only host.
func active(p *Proxy, cluster string) (n int64) {
	for _, c := range p.Upstream().Clusters() {
		if c.Name == cluster {
			n = c.Hosts()[0].Active()
		}
	}
	return n
}

// A request is its host's work until its response has ended, not until it has
// begun: streams and downloads count to who balances by load.
func TestHostIsBusyUntilTheResponseEnds(t *testing.T) {
	leave := make(chan struct{})
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		w.(http.Flusher).Flush()
		<-leave
	}), nil)
	resp, err := http.Get(m.url + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if n := active(m.a, "worker"); n != 1 {
		t.Errorf("%d requests in flight while one is", n)
	}
	close(leave)
	io.Copy(io.Discard, resp.Body)
	m.logA.wait(t, "/stream")
	if n := active(m.a, "worker"); n != 0 {
		t.Errorf("%d requests in flight afterwards", n)
	}
}

// A connection of TCP likewise.
func TestHostIsBusyWhileTCPIsOpen(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.2:0")
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		m.snapA.Clusters = append(m.snapA.Clusters, static("db", speaker(t, "db", nil)))
		m.snapA.Listeners = append(m.snapA.Listeners, &ir.Listener{Name: "tcp", Address: at, Direction: ir.Outbound, Bind: true, Chains: []*ir.FilterChain{bytesTo("db", ir.ChainMatch{})}})
	})
	c, err := net.Dial("tcp", m.a.Addr(at).String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if n := active(m.a, "db"); n != 1 {
		t.Errorf("%d connections while one is open", n)
	}
	c.Close()
	m.logA.wait(t, "db")
	if n := active(m.a, "db"); n != 0 {
		t.Errorf("%d connections afterwards", n)
	}
}
