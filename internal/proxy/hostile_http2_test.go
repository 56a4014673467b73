package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/h2"
)

// overHTTP2 is what attacks on HTTP/2 meet: the pair speaks it with its callers
// and within, so that hostile and other requests share the connections between.
var overHTTP2 = hops{"http2", "http2", "http1"}

// attacker is a peer that writes whatever frames it likes, many at once.
type attacker struct {
	*http2.Framer
	w     *bufio.Writer
	block bytes.Buffer
	enc   *hpack.Encoder
	ended chan struct{} // the proxy has said GOAWAY, or closed
	acks  chan struct{} // answers to PINGs
}

func newAttacker(nc net.Conn, settings ...http2.Setting) (*attacker, error) {
	w := bufio.NewWriter(nc)
	a := &attacker{Framer: http2.NewFramer(w, nc), w: w, ended: make(chan struct{}), acks: make(chan struct{}, 16)}
	a.AllowIllegalWrites = true
	a.SetReuseFrames()
	a.enc = hpack.NewEncoder(&a.block)
	if _, err := w.WriteString(h2.Preface); err != nil {
		return nil, err
	}
	go a.read()
	return a, a.WriteSettings(settings...)
}

// read takes what the proxy says, so that it is never the proxy that waits.
func (a *attacker) read() {
	defer close(a.ended)
	for {
		switch f, err := a.ReadFrame(); f := f.(type) {
		case *http2.GoAwayFrame:
			return
		case *http2.PingFrame:
			if f.IsAck() {
				select {
				case a.acks <- struct{}{}:
				default:
				}
			}
		default:
			if err != nil {
				return
			}
		}
	}
}

// settled returns when the proxy has handled all that was written.
func (a *attacker) settled() error {
	if err := errors.Join(a.WritePing(false, [8]byte{1}), a.w.Flush()); err != nil {
		return err
	}
	select {
	case <-a.acks:
	case <-a.ended:
	}
	return nil
}

func (a *attacker) fields(method, path string, more ...string) []byte {
	a.block.Reset()
	all := append([]string{":method", method, ":scheme", "http", ":path", path, ":authority", "x"}, more...)
	for i := 0; i < len(all); i += 2 {
		a.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
	return a.block.Bytes()
}

func (a *attacker) request(id uint32, end bool, method, path string, more ...string) error {
	return a.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.fields(method, path, more...), EndStream: end, EndHeaders: true})
}

// flood writes until the proxy has had enough, which is what must happen.
func flood(write func(a *attacker, i int) error) func(net.Conn) error {
	return func(nc net.Conn) error {
		nc.SetDeadline(time.Now().Add(time.Minute))
		a, err := newAttacker(nc)
		if err != nil {
			return err
		}
		for i := 0; ; i++ {
			select {
			case <-a.ended:
				return nil
			default:
			}
			if i > 1_000_000 {
				return fmt.Errorf("%d frames were taken", i)
			}
			if write(a, i) != nil {
				<-a.ended
				return nil
			}
		}
	}
}

// holds does something once and stays.
func holds(settings []http2.Setting, do func(a *attacker) error) func(net.Conn) error {
	return func(nc net.Conn) error {
		a, err := newAttacker(nc, settings...)
		if err != nil {
			return err
		}
		if err := do(a); err != nil {
			return err
		}
		return a.settled()
	}
}

var zeroWindow = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}

// atLeast checks a counter that HTTP/2 connections add to when they end.
func atLeast(name string, perConn int) func(*mesh, int) error {
	return func(m *mesh, n int) error {
		if got, _ := strconv.ParseFloat(metric(m.a, name), 64); int(got) < perConn*n {
			return fmt.Errorf("%s is %v, want at least %d", name, got, perConn*n)
		}
		return nil
	}
}

const controlFloods = "envoy_http2_inbound_control_frames_flood"

// aThousand requests of each connection may have begun before it is ended, and
// their memory lies in the pools of the connections between the pair.
const aThousand = 1 << 20

var http2Attacks = []attack{
	{name: "h2 idle", do: holds(nil, func(*attacker) error { return nil }), perConn: 64 << 10, counted: open},
	{name: "h2 rapid reset", most: 40, do: flood(func(a *attacker, i int) error {
		id := uint32(2*i + 1)
		if err := a.request(id, true, "GET", "/"); err != nil {
			return err
		}
		return a.WriteRSTStream(id, http2.ErrCodeCancel)
	}), perConn: aThousand, ended: atLeast("envoy_http2_rapid_resets", 1)},
	{name: "h2 made to reset", most: 40, do: flood(func(a *attacker, i int) error { // CVE-2025-8671
		id := uint32(2*i + 1)
		if err := a.request(id, false, "POST", "/"); err != nil {
			return err
		}
		return a.WriteWindowUpdate(id, 0)
	}), perConn: aThousand, ended: atLeast("envoy_http2_rapid_resets", 1)},
	{name: "h2 CONTINUATION flood", do: flood(func(a *attacker, i int) error {
		if i == 0 {
			return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.fields("GET", "/")})
		}
		return a.WriteContinuation(1, false, []byte{0x40, 1, 'x', 1, 'y'})
	}), perConn: 64 << 10, ended: atLeast("envoy_http2_inbound_header_flood", 1)},
	{name: "h2 PING flood", do: flood(func(a *attacker, _ int) error { return a.WritePing(false, [8]byte{}) }), perConn: 64 << 10, ended: atLeast(controlFloods, 1)},
	{name: "h2 SETTINGS flood", do: flood(func(a *attacker, _ int) error { return a.WriteSettings() }), perConn: 64 << 10, ended: atLeast(controlFloods, 1)},
	{name: "h2 PRIORITY flood", do: flood(func(a *attacker, _ int) error {
		return a.WritePriority(1, http2.PriorityParam{StreamDep: 3})
	}), perConn: 64 << 10, ended: atLeast(controlFloods, 1)},
	{name: "h2 WINDOW_UPDATE flood", do: flood(func(a *attacker, _ int) error { return a.WriteWindowUpdate(0, 1) }), perConn: 64 << 10, ended: atLeast("envoy_http2_inbound_window_update_flood", 1)},
	{name: "h2 hpack bombs", do: holds(nil, func(a *attacker) error {
		if err := a.request(1, true, "GET", "/", "x-bomb", strings.Repeat("a", 3900)); err != nil {
			return err
		}
		// 15,000 references to the entry would be 60 MB of fields.
		block := append(a.fields("GET", "/"), bytes.Repeat([]byte{0x80 | 62}, 15000)...)
		return a.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndStream: true, EndHeaders: true})
	}), perConn: 192 << 10, ended: atLeast("envoy_http2_header_overflow", 1)},
	{name: "h2 zero-window stalls", reaches: true, do: holds(zeroWindow, func(a *attacker) error {
		return a.request(1, true, "GET", "/large")
	}), perConn: 768 << 10, counted: open},
	{name: "h2 zero-window stalls, 50 streams each", most: 20, do: holds(zeroWindow, func(a *attacker) error {
		for i := range 50 {
			if err := a.request(uint32(2*i+1), true, "GET", "/large"); err != nil {
				return err
			}
		}
		return nil
	}), perConn: 50 * 768 << 10, counted: open},
	{name: "h2 huge bodies to an upstream that does not read", reaches: true, do: holds(nil, func(a *attacker) error {
		if err := a.request(1, false, "POST", "/stuck", "content-length", "1000000000"); err != nil {
			return err
		}
		b := make([]byte, 16<<10)
		for range 16 { // the window that we begin with
			if err := a.WriteData(1, false, b); err != nil {
				return err
			}
		}
		return nil
	}), perConn: 768 << 10, counted: open},
}
