package meshtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// edge opens the gateway for what the WebSocket tests call.
const edge = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [chat.example.com]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: chat, namespace: shop}
spec:
  hosts: [chat.example.com]
  gateways: [istio-system/edge]
  http:
  - timeout: 1s
    route: [{destination: {host: web}}]
`

// ways are what a WebSocket passes: a pair of sidecars, or gateway and sidecar.
var ways = []struct{ name, from, url string }{
	{"sidecars", "worker-v1-0", "http://web/chat"},
	{"gateway", "outside", "http://chat.example.com/chat"},
}

// overWays runs body in a bubble per way, with server at the other end.
func overWays(t *testing.T, server func(ctx context.Context, c *websocket.Conn), options *websocket.AcceptOptions, body func(t *testing.T, w *world, dial func(*websocket.DialOptions) *websocket.Conn)) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := shopWorld(t, edge)
				defer w.close()
				web := w.pods["web-0"].app
				web.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					c, err := websocket.Accept(rw, r, options)
					if err != nil {
						return
					}
					defer c.CloseNow()
					c.SetReadLimit(16 << 20)
					server(web.ctx, c)
				})
				from := w.outside
				if p := w.pods[way.from]; p != nil {
					from = p
				}
				body(t, w, func(o *websocket.DialOptions) *websocket.Conn {
					t.Helper()
					if o == nil {
						o = &websocket.DialOptions{}
					}
					o.HTTPClient = &http.Client{Transport: from.client.transport}
					c, resp, err := websocket.Dial(t.Context(), way.url, o)
					if err != nil {
						t.Fatalf("dial: %v (%+v)", err, resp)
					}
					c.SetReadLimit(16 << 20)
					t.Cleanup(func() { c.CloseNow() })
					return c
				})
			})
		})
	}
}

func shopWorld(t *testing.T, more string) *world {
	t.Helper()
	w, err := newWorld(overH1)
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, script: &script{file: "go", dir: "testdata/x"}, world: w, started: map[string]*running{}}
	w.docs = []document{identify(document{file: "mesh.yaml", line: 1, text: defaultMesh})}
	if err := r.use("shop.yaml"); err != nil {
		t.Fatal(err)
	}
	docs, notes := splitYAML("more.yaml", 1, strings.Split(more, "\n"))
	if err := r.apply(docs, notes); err != nil {
		t.Fatal(err)
	}
	return w
}

func echoMessages(ctx context.Context, c *websocket.Conn) {
	for {
		kind, b, err := c.Read(ctx)
		if err != nil || c.Write(ctx, kind, b) != nil {
			return
		}
	}
}

// Every length that RFC 6455 section 5.2 encodes differently, and large ones.
func TestWebSocketSizes(t *testing.T) {
	overWays(t, echoMessages, nil, func(t *testing.T, _ *world, dial func(*websocket.DialOptions) *websocket.Conn) {
		c := dial(nil)
		for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 2 << 20} {
			sent := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
			done := make(chan error, 1)
			go func() { done <- c.Write(t.Context(), websocket.MessageBinary, sent) }()
			kind, got, err := c.Read(t.Context())
			if err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, sent) {
				t.Fatalf("%d bytes: %v, %v, %d bytes back", n, err, kind, len(got))
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A message in fragments, with a ping between them (RFC 6455 section 5.4).
func TestWebSocketFragments(t *testing.T) {
	overWays(t, echoMessages, nil, func(t *testing.T, _ *world, dial func(*websocket.DialOptions) *websocket.Conn) {
		c := dial(nil)
		got := make(chan string, 1)
		go func() {
			_, b, err := c.Read(t.Context())
			got <- fmt.Sprint(string(b), err)
		}()
		w, err := c.Writer(t.Context(), websocket.MessageText)
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for i := range 50 {
			part := strings.Repeat(fmt.Sprintf("part %d;", i), 100)
			want.WriteString(part)
			if _, err := io.WriteString(w, part); err != nil {
				t.Fatal(err)
			}
			if i == 25 {
				if err := c.Ping(t.Context()); err != nil {
					t.Fatalf("ping between fragments: %v", err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if g := <-got; g != want.String()+"<nil>" {
			t.Fatalf("%d bytes came back for %d", len(g), want.Len())
		}
	})
}

// Both sides may ping; a WebSocket outlives the route's timeout and long
// silence.
func TestWebSocketPingAndSilence(t *testing.T) {
	pinged := make(chan error, 1)
	server := func(ctx context.Context, c *websocket.Conn) {
		go func() { pinged <- c.Ping(ctx) }()
		echoMessages(ctx, c)
	}
	overWays(t, server, nil, func(t *testing.T, _ *world, dial func(*websocket.DialOptions) *websocket.Conn) {
		pinged = make(chan error, 1)
		c := dial(nil)
		for _, silence := range []time.Duration{0, 10 * time.Second, 50 * time.Minute, 59 * time.Minute} {
			pause(t.Context(), silence)
			if err := c.Write(t.Context(), websocket.MessageText, []byte("still there?")); err != nil {
				t.Fatalf("after %v: %v", silence, err)
			}
			if _, b, err := c.Read(t.Context()); err != nil || string(b) != "still there?" {
				t.Fatalf("after %v: %q, %v", silence, b, err)
			}
		}
		if err := <-pinged; err != nil {
			t.Errorf("the server's ping: %v", err)
		}
		c.CloseRead(t.Context()) // reads the pong
		if err := c.Ping(t.Context()); err != nil {
			t.Errorf("the caller's ping: %v", err)
		}
	})
}

// Close codes and reasons pass both ways; an end without a close frame is not
// made into one.
func TestWebSocketClose(t *testing.T) {
	for _, code := range []websocket.StatusCode{websocket.StatusNormalClosure, websocket.StatusInternalError, 4999} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			fromServer := func(ctx context.Context, c *websocket.Conn) { c.Close(code, "the server's reason") }
			overWays(t, fromServer, nil, func(t *testing.T, _ *world, dial func(*websocket.DialOptions) *websocket.Conn) {
				_, _, err := dial(nil).Read(t.Context())
				var closed websocket.CloseError
				if !errors.As(err, &closed) || closed.Code != code || closed.Reason != "the server's reason" {
					t.Errorf("read: %v", err)
				}
			})
			var heard error
			toServer := func(ctx context.Context, c *websocket.Conn) { _, _, heard = c.Read(ctx) }
			overWays(t, toServer, nil, func(t *testing.T, _ *world, dial func(*websocket.DialOptions) *websocket.Conn) {
				heard = nil
				if err := dial(nil).Close(code, "the caller's reason"); err != nil {
					t.Errorf("close: %v", err)
				}
				synctest.Wait()
				var closed websocket.CloseError
				if !errors.As(heard, &closed) || closed.Code != code || closed.Reason != "the caller's reason" {
					t.Errorf("the server read: %v", heard)
				}
			})
		})
	}
	vanish := func(ctx context.Context, c *websocket.Conn) { c.CloseNow() }
	overWays(t, vanish, nil, func(t *testing.T, _ *world, dial func(*websocket.DialOptions) *websocket.Conn) {
		if _, _, err := dial(nil).Read(t.Context()); err == nil || websocket.CloseStatus(err) != -1 {
			t.Errorf("a server that vanished looks like %v", err)
		}
	})
}

// Subprotocols and compression are the peers' affair.
func TestWebSocketNegotiation(t *testing.T) {
	o := &websocket.AcceptOptions{Subprotocols: []string{"chat.v2"}, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1}
	overWays(t, echoMessages, o, func(t *testing.T, _ *world, dial func(*websocket.DialOptions) *websocket.Conn) {
		c := dial(&websocket.DialOptions{Subprotocols: []string{"chat.v1", "chat.v2"}, CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
		if c.Subprotocol() != "chat.v2" {
			t.Errorf("subprotocol %q", c.Subprotocol())
		}
		for range 3 {
			text := []byte(strings.Repeat("compress me ", 1000))
			if err := c.Write(t.Context(), websocket.MessageText, text); err != nil {
				t.Fatal(err)
			}
			if _, b, err := c.Read(t.Context()); err != nil || !bytes.Equal(b, text) {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
		}
	})
}

// Another configuration leaves an open WebSocket alone; the other end's drain
// does not.
func TestWebSocketSurvivesEdits(t *testing.T) {
	overWays(t, echoMessages, nil, func(t *testing.T, w *world, dial func(*websocket.DialOptions) *websocket.Conn) {
		c := dial(nil)
		w.unready["worker-v2-0"] = true
		for range 3 {
			if _, err := w.reconcile(); err != nil {
				t.Fatal(err)
			}
			if err := c.Write(t.Context(), websocket.MessageText, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.unready["worker-v2-0"] = false
		}
	})
}

// Bytes that come with the handshake are not lost, and a half-close passes: the
// other direction goes on.
func TestWebSocketHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := shopWorld(t, "")
		defer w.close()
		w.pods["web-0"].app.handler = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			c, buf, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			heard, err := io.ReadAll(buf)
			fmt.Fprintf(c, "heard %q, %v", heard, err)
		})
		raw, err := w.pods["worker-v1-0"].client.dial(t.Context(), "tcp", "web:80")
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		io.WriteString(raw, "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nearly ")
		in := bufio.NewReader(raw)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", resp, err)
		}
		io.WriteString(raw, "and late")
		raw.(*conn).CloseWrite()
		rest, err := io.ReadAll(in)
		if string(rest) != `heard "early and late", <nil>` || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
	})
}
