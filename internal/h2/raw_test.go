package h2

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/header"
)

// raw is a peer that can write any frame. Everything it writes is written by
// a goroutine that reads nothing, and everything it reads is kept.
type raw struct {
	t   testing.TB
	nc  net.Conn
	fr  *http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer
}

func newRaw(t testing.TB, nc net.Conn) *raw {
	r := &raw{t: t, nc: nc, fr: http2.NewFramer(nc, nc)}
	r.fr.AllowIllegalWrites = true
	r.fr.AllowIllegalReads = true
	r.enc = hpack.NewEncoder(&r.buf)
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	return r
}

// rawClient is a raw peer of our server, past the SETTINGS.
func rawClient(t testing.TB, o Options) (*raw, *Conn) {
	a, b := pipe(t)
	o.Server = true
	if o.Handler == nil {
		o.Handler = func(s *Stream) { go echo(s) }
	}
	c := NewConn(b, o)
	serve(t, c)
	r := newRaw(t, a)
	io.WriteString(a, Preface)
	r.fr.WriteSettings()
	return r, c
}

func (r *raw) block(fields ...string) []byte {
	r.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(r.buf.Bytes())
}

var get = []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "mesh.test"}

func (r *raw) headers(id uint32, end bool, fields ...string) {
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.block(fields...), EndStream: end, EndHeaders: true})
}

// until reads frames until one fits; the connection's end is an error.
func (r *raw) until(fits func(http2.Frame) bool) error {
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			return err
		}
		if fits(f) {
			return nil
		}
	}
}

// goAway waits for a GOAWAY and returns its code.
func (r *raw) goAway() (code http2.ErrCode, err error) {
	err = r.until(func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		if ok {
			code = g.ErrCode
		}
		return ok
	})
	return code, err
}

// reset waits for RST_STREAM on a stream.
func (r *raw) reset(id uint32) (code http2.ErrCode, err error) {
	err = r.until(func(f http2.Frame) bool {
		g, ok := f.(*http2.RSTStreamFrame)
		if ok {
			code = g.ErrCode
		}
		return ok && f.Header().StreamID == id
	})
	return code, err
}

func TestFloodsEndTheConnection(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(r *raw, i int) error
		count func(Stats) uint64
		once  bool
	}{
		{"ping", func(r *raw, i int) error { return r.fr.WritePing(false, [8]byte{}) }, func(s Stats) uint64 { return s.ControlFlood }, false},
		{"settings", func(r *raw, i int) error { return r.fr.WriteSettings() }, func(s Stats) uint64 { return s.ControlFlood }, false},
		{"priority", func(r *raw, i int) error { return r.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3}) }, func(s Stats) uint64 { return s.ControlFlood }, false},
		{"unknown", func(r *raw, i int) error { return r.fr.WriteRawFrame(99, 0, 0, nil) }, func(s Stats) uint64 { return s.ControlFlood }, false},
		{"window", func(r *raw, i int) error { return r.fr.WriteWindowUpdate(0, 1) }, func(s Stats) uint64 { return s.WindowFlood }, false},
		{"empty data", func(r *raw, i int) error {
			if i == 0 {
				r.headers(1, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "mesh.test")
			}
			return r.fr.WriteData(1, false, nil)
		}, func(s Stats) uint64 { return s.ControlFlood }, false},
		{"rapid reset", func(r *raw, i int) error {
			id := uint32(2*i + 1)
			r.headers(id, true, get...)
			return r.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		}, func(s Stats) uint64 { return s.RapidResets }, false},
		{"made to reset", func(r *raw, i int) error { // CVE-2025-8671
			id := uint32(2*i + 1)
			r.headers(id, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "mesh.test")
			return r.fr.WriteWindowUpdate(id, 0)
		}, func(s Stats) uint64 { return s.RapidResets }, false},
		{"continuation", func(r *raw, i int) error {
			if i == 0 {
				r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(get...)})
			}
			return r.fr.WriteContinuation(1, false, nil)
		}, func(s Stats) uint64 { return s.HeaderFlood }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, c := rawClient(t, Options{})
			go func() {
				for i := 0; i < 200000; i++ {
					if tt.write(r, i) != nil {
						return
					}
				}
			}()
			if code, err := r.goAway(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				// The peer wrote on; its kernel may have dropped the GOAWAY.
			} else if err != nil || code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY %v, %v", code, err)
			}
			var ce *ConnError
			if err := c.Err(); !errors.As(err, &ce) || ce.Code != EnhanceYourCalm {
				t.Errorf("err %v", err)
			}
			if tt.count(c.Stats()) != 1 {
				t.Errorf("stats %+v", c.Stats())
			}
		})
	}
}

// TestBadRequestsAreStreamErrors: each is refused alone, and the connection
// serves the next request.
func TestBadRequestsAreStreamErrors(t *testing.T) {
	with := func(more ...string) []string { return append(append([]string{}, get...), more...) }
	for _, tt := range []struct {
		name   string
		fields []string
	}{
		{"capital", with("X-A", "1")},
		{"connection", with("connection", "close")},
		{"te", with("te", "gzip")},
		{"newline", with("x-a", "1\r\nx-b: 2")},
		{"nul", with("x-a", "1\x00")},
		{"blank in front", with("x-a", " 1")},
		{"blank behind", with("x-a", "1\t")},
		{"blank name", with("x a", "1")},
		{"empty name", with("", "1")},
		{"pseudo late", with("x-a", "1", ":method", "GET")},
		{"pseudo unknown", with(":x", "1")},
		{"pseudo twice", with(":path", "/b")},
		{"status", with(":status", "200")},
		{"no method", get[2:]},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "a"}},
		{"empty path", []string{":method", "GET", ":scheme", "http", ":path", "", ":authority", "a"}},
		{"absolute path", []string{":method", "GET", ":scheme", "http", ":path", "http://a/", ":authority", "a"}},
		{"star", []string{":method", "GET", ":scheme", "http", ":path", "*", ":authority", "a"}},
		{"userinfo", []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "u@a"}},
		{"host conflict", with("host", "other.test")},
		{"method", []string{":method", "G T", ":scheme", "http", ":path", "/", ":authority", "a"}},
		{"protocol not offered", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a"}},
		{"connect with path", []string{":method", "CONNECT", ":path", "/", ":authority", "a"}},
		{"connect without authority", []string{":method", "CONNECT"}},
		{"length", with("content-length", "1x")},
		{"length sign", with("content-length", "+1")},
		{"length conflict", with("content-length", "0", "content-length", "1")},
		{"length without body", with("content-length", "3")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, c := rawClient(t, Options{})
			r.headers(1, true, tt.fields...)
			if code, err := r.reset(1); err != nil || code != http2.ErrCodeProtocol {
				t.Fatalf("RST_STREAM %v, %v", code, err)
			}
			r.headers(3, true, get...)
			if err := r.until(func(f http2.Frame) bool { return f.Header().Type == http2.FrameHeaders && f.Header().StreamID == 3 }); err != nil {
				t.Error(err)
			}
			if n := c.Stats().StreamErrors; n != 1 {
				t.Error(n)
			}
		})
	}
}

func TestLargeHeadersAnswered431(t *testing.T) {
	r, c := rawClient(t, Options{MaxHeaderBytes: 2000, MaxFields: 20})
	many := append([]string{}, get...)
	for range 30 {
		many = append(many, "x-a", "1")
	}
	for i, fields := range [][]string{
		append(append([]string{}, get...), "x-long", strings.Repeat("a", 3000)), many,
	} {
		id := uint32(2*i + 1)
		r.headers(id, true, fields...)
		var status string
		err := r.until(func(f http2.Frame) bool {
			h, ok := f.(*http2.HeadersFrame)
			if ok {
				fields, _ := hpack.NewDecoder(4096, nil).DecodeFull(h.HeaderBlockFragment())
				status = fields[0].Value
			}
			return ok && f.Header().StreamID == id
		})
		if err != nil || status != "431" {
			t.Errorf("%q %v", status, err)
		}
	}
	// The tables are in step: a field the refused block inserted is found.
	r.headers(5, true, append(append([]string{}, get...), "x-a", "1")...)
	if err := r.until(func(f http2.Frame) bool { return f.Header().Type == http2.FrameHeaders && f.Header().StreamID == 5 }); err != nil {
		t.Error(err)
	}
	if n := c.Stats().HeadersTooLarge; n != 2 {
		t.Error(n)
	}
}

func TestHpackBomb(t *testing.T) {
	r, c := rawClient(t, Options{})
	r.headers(1, true, append(append([]string{}, get...), "x-bomb", strings.Repeat("a", 3900))...)
	// 15,000 references to the entry would be 60 MB of fields.
	block := append(r.block(get...), bytes.Repeat([]byte{0x80 | 62}, 15000)...)
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndStream: true, EndHeaders: true})
	r.fr.WritePing(false, [8]byte{1})
	if err := r.until(func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() }); err != nil {
		t.Fatal(err)
	}
	if n := c.Stats().HeadersTooLarge; n != 1 {
		t.Error(n)
	}
}

func TestStreamsOverTheLimitAreRefused(t *testing.T) {
	handled := make(chan *Stream)
	r, c := rawClient(t, Options{MaxConcurrentStreams: 2, Handler: func(s *Stream) { handled <- s }})
	var held []*Stream
	open := func(id uint32) {
		r.headers(id, false, get...)
		held = append(held, <-handled)
	}
	refused := func(id uint32) {
		t.Helper()
		r.headers(id, false, get...)
		if code, err := r.reset(id); err != nil || code != http2.ErrCodeRefusedStream {
			t.Error(id, code, err)
		}
	}
	open(1)
	open(3)
	refused(5)
	// Streams that were reset but are still worked on count too, twice as many.
	r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
	r.fr.WriteRSTStream(3, http2.ErrCodeCancel)
	open(7)
	open(9)
	r.fr.WriteRSTStream(7, http2.ErrCodeCancel)
	refused(11)
	if n := c.ActiveStreams(); n != 4 {
		t.Error(n)
	}
	for _, s := range held {
		s.Close()
	}
	open(13)
	if s := c.Stats(); s.Refused != 2 {
		t.Error(s)
	}
}

// TestNegativeWindow: SETTINGS take window away that is used already; data
// flows again only when the sum is positive (RFC 9113 section 6.9.2).
func TestNegativeWindow(t *testing.T) {
	r, _ := rawClient(t, Options{Handler: func(s *Stream) {
		go func() {
			defer s.Close()
			s.WriteHead(&header.Head{Status: 200, Framing: header.Open}, false)
			s.WriteData(make([]byte, 200), true)
			s.Flush()
		}()
	}})
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
	r.headers(1, true, get...)
	got := 0
	data := func(want int) func(http2.Frame) bool {
		return func(f http2.Frame) bool {
			if d, ok := f.(*http2.DataFrame); ok {
				got += len(d.Data())
			}
			return got >= want
		}
	}
	if err := r.until(data(100)); err != nil || got != 100 {
		t.Fatal(got, err)
	}
	r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) // window -100
	r.fr.WriteWindowUpdate(1, 100)                                                // 0
	r.fr.WritePing(false, [8]byte{1})
	if err := r.until(func(f http2.Frame) bool { data(0)(f); p, ok := f.(*http2.PingFrame); return ok && p.IsAck() }); err != nil || got != 100 {
		t.Fatal(got, err)
	}
	r.fr.WriteWindowUpdate(1, 1)
	if err := r.until(data(101)); err != nil || got != 101 {
		t.Fatal(got, err)
	}
	r.fr.WriteWindowUpdate(1, 1000)
	if err := r.until(data(200)); err != nil || got != 200 {
		t.Fatal(got, err)
	}
}

// TestEarlyAnswer: a server that has answered does not want the rest of the
// request; that is no error (RFC 9113 section 8.1), and what is under way of
// the body gives its window back.
func TestEarlyAnswer(t *testing.T) {
	r, c := rawClient(t, Options{ConnWindow: defaultWindow, Handler: func(s *Stream) {
		go func() {
			s.WriteHead(&header.Head{Status: 413}, true)
			s.Close()
		}()
	}})
	r.headers(1, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "mesh.test")
	if code, err := r.reset(1); err != nil || code != http2.ErrCodeNo {
		t.Fatal(code, err)
	}
	for range 4 {
		r.fr.WriteData(1, false, make([]byte, 10000))
	}
	if err := r.until(func(f http2.Frame) bool {
		w, ok := f.(*http2.WindowUpdateFrame)
		return ok && w.StreamID == 0 && w.Increment >= 30000
	}); err != nil {
		t.Error(err)
	}
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

// TestWindowFollowsTheConsumer: what nobody takes is not given back, and a
// peer that sends more is reset.
func TestWindowFollowsTheConsumer(t *testing.T) {
	handled := make(chan *Stream, 1)
	r, _ := rawClient(t, Options{StreamWindow: 1000, Handler: func(s *Stream) { handled <- s }})
	r.fr.WriteSettingsAck()
	r.headers(1, false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "mesh.test")
	s := <-handled
	r.fr.WriteData(1, false, make([]byte, 600))
	if b, _, err := s.Next(); err != nil || len(b) != 600 {
		t.Fatal(len(b), err)
	}
	r.fr.WriteData(1, false, make([]byte, 400)) // the window is used up: the 600 are still ours
	if b, _, err := s.Next(); err != nil || len(b) != 400 {
		t.Fatal(len(b), err)
	}
	if err := r.until(func(f http2.Frame) bool {
		w, ok := f.(*http2.WindowUpdateFrame)
		return ok && w.StreamID == 1 && w.Increment == 600
	}); err != nil {
		t.Fatal(err)
	}
	r.fr.WriteData(1, false, make([]byte, 601))
	if code, err := r.reset(1); err != nil || code != http2.ErrCodeFlowControl {
		t.Error(code, err)
	}
	s.Close()
}
