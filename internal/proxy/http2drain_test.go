package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	goruntime "runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/h2"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// gate holds up the writes of the connections that a listener accepts.
type gate struct {
	net.Listener
	shut    atomic.Bool
	reached chan struct{} // a write stands before it
	open    chan struct{}
}

func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	return &gated{c, g}, err
}

type gated struct {
	net.Conn
	gate *gate
}

func (c *gated) Write(b []byte) (int, error) {
	if c.gate.shut.CompareAndSwap(true, false) {
		c.gate.reached <- struct{}{}
		<-c.gate.open
	}
	return c.Conn.Write(b)
}

// drainMesh is a mesh whose callers' connections are gated, and one of them.
func drainMesh(t *testing.T, app http.Handler) (*mesh, *gate, net.Conn, *http2.Framer) {
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	m := newMesh(t, app, func(m *mesh) {
		m.options = func(o *Options) {
			o.Listen = func(ctx context.Context, l *ir.Listener) (net.Listener, error) {
				inner, err := listen(ctx, l)
				if err != nil || l.Name != "out" {
					return inner, err
				}
				g.Listener = inner
				return g, nil
			}
		}
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, h2.Preface)
	fr := http2.NewFramer(c, c)
	fr.WriteSettings()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := f.(*http2.SettingsFrame); ok && s.IsAck() {
			return m, g, c, fr
		}
	}
}

// rest reads until the server ends the connection, answering its PINGs; seen
// are the frames on the way.
func rest(t *testing.T, fr *http2.Framer) (seen string) {
	t.Helper()
	for {
		f, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			return seen
		}
		if err != nil {
			t.Fatal(seen, err)
		}
		seen += " " + f.Header().Type.String()
		if p, ok := f.(*http2.PingFrame); ok && !p.IsAck() {
			fr.WritePing(true, p.Data)
		}
	}
}

// A connection without streams is told that it ends: a request that crosses the
// end on its way is then one that was not served, and can be sent again.
func TestDrainTellsIdleHTTP2(t *testing.T) {
	m, _, _, fr := drainMesh(t, http.NotFoundHandler())
	go m.a.Drain(t.Context())
	if seen := rest(t, fr); strings.Count(seen, "GOAWAY") != 2 {
		t.Errorf("frames:%s", seen)
	}
}

// The last response before the end goes out, even if something else is being
// written when it is ready.
func TestDrainWritesTheLastResponse(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	m, g, _, fr := drainMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-leave
	}))
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/last"}, {Name: ":authority", Value: "x"}} {
		enc.WriteField(f)
	}
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true})
	<-entered
	g.shut.Store(true)
	go m.a.Drain(t.Context())
	<-g.reached // the GOAWAY
	close(leave)
	m.logA.wait(t, "/last")
	for range 1000 { // the stream is closed a moment after its record
		goruntime.Gosched()
	}
	close(g.open)
	if seen := rest(t, fr); !strings.Contains(seen, "HEADERS") {
		t.Errorf("frames:%s", seen)
	}
}
