package h2

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/header"
)

// rawServer is a raw peer of our client, past Preface and SETTINGS.
func rawServer(t testing.TB, o Options, settings ...http2.Setting) (*raw, *Conn) {
	a, b := pipe(t)
	c := NewConn(a, o)
	serve(t, c)
	r := newRaw(t, b)
	if _, err := io.ReadFull(b, make([]byte, len(Preface))); err != nil {
		t.Fatal(err)
	}
	r.fr.WriteSettings(settings...)
	if err := r.until(func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && s.IsAck() }); err != nil {
		t.Fatal(err)
	}
	return r, c
}

func send(t testing.TB, c *Conn, end bool) *Stream {
	s, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	s.SetReadBy(time.Now().Add(20*time.Second), 0)
	if err := s.WriteHead(request("POST", "/", !end), end); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRetrySafe(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(r *raw)
		want bool
	}{
		{"refused", func(r *raw) { r.fr.WriteRSTStream(3, http2.ErrCodeRefusedStream) }, true},
		{"cancel", func(r *raw) { r.fr.WriteRSTStream(3, http2.ErrCodeCancel) }, false},
		{"above GOAWAY", func(r *raw) { r.fr.WriteGoAway(1, http2.ErrCodeNo, nil) }, true},
		{"at GOAWAY, then closed", func(r *raw) { r.fr.WriteGoAway(3, http2.ErrCodeInternal, nil); r.nc.Close() }, false},
		{"closed", func(r *raw) { r.nc.Close() }, false},
		{"bad response", func(r *raw) { r.headers(3, true, ":status", "20") }, false},
		{"data first", func(r *raw) { r.fr.WriteData(3, true, []byte("x")) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, c := rawServer(t, Options{})
			first := send(t, c, true)
			defer first.Close()
			s := send(t, c, true)
			defer s.Close()
			tt.do(r)
			err := s.ReadHead(&header.Head{})
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || RetrySafe(err) != tt.want {
				t.Errorf("%v: retry safe %v", err, RetrySafe(err))
			}
			if !s.PeerGone() && s.Err() == nil {
				t.Error("the stream does not know")
			}
		})
	}
}

func TestOpenLimits(t *testing.T) {
	r, c := rawServer(t, Options{}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	s := send(t, c, true)
	if _, err := c.Open(); err != ErrNoStreams || c.CanOpen() {
		t.Error(err)
	}
	r.headers(1, true, ":status", "204")
	var h header.Head
	if err := s.ReadHead(&h); err != nil || h.Status != 204 || h.Framing != header.NoBody || !s.Complete() {
		t.Error(h.Status, err)
	}
	s.Close()
	if !c.CanOpen() {
		t.Error("cannot open again")
	}
	r.fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	r.fr.WritePing(false, [8]byte{})
	r.until(func(f http2.Frame) bool { return f.Header().Type == http2.FramePing })
	if _, err := c.Open(); err != ErrGoingAway {
		t.Error(err)
	}
}

// TestUnreadResponseLeavesTheWindow: what one consumer leaves unread is no
// reason for the other streams of the connection to wait.
func TestUnreadResponseLeavesTheWindow(t *testing.T) {
	r, c := rawServer(t, Options{StreamWindow: 60_000, ConnWindow: defaultWindow})
	unread := send(t, c, true)
	defer unread.Close()
	r.headers(1, false, ":status", "200")
	for range 6 {
		r.fr.WriteData(1, false, make([]byte, 10_000))
	}
	if err := r.until(func(f http2.Frame) bool {
		w, ok := f.(*http2.WindowUpdateFrame)
		return ok && w.StreamID == 0 && w.Increment >= 40_000
	}); err != nil {
		t.Fatal(err)
	}
}

// TestChoked: the connection says so while a body waits for its window, and no
// longer.
func TestChoked(t *testing.T) {
	r, c := rawServer(t, Options{}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	s := send(t, c, false)
	defer s.Close()
	if c.Choked() {
		t.Error("choked without a body")
	}
	wrote := make(chan error)
	go func() { wrote <- s.WriteData(make([]byte, defaultWindow+1), true) }()
	got := 0
	if err := r.until(func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok {
			got += len(d.Data())
		}
		return got == defaultWindow
	}); err != nil {
		t.Fatal(err)
	}
	for !c.Choked() { // the window is used up; the writer waits at once
		runtime.Gosched()
	}
	r.fr.WriteWindowUpdate(0, 1)
	if err := <-wrote; err != nil || c.Choked() {
		t.Error(err, c.Choked())
	}
}

func TestDeadlines(t *testing.T) {
	_, c := rawServer(t, Options{}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	s := send(t, c, false)
	defer s.Close()
	s.SetReadBy(time.Now().Add(10*time.Millisecond), 0)
	if err := s.ReadHead(&header.Head{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if _, _, err := s.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	s.SetWriteBy(time.Now().Add(10 * time.Millisecond))
	if err := s.WriteData(make([]byte, 11), false); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	s.SetReadBy(time.Time{}, 0)
	done := make(chan error)
	go func() { done <- s.ReadHead(&header.Head{}) }()
	s.Interrupt()
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// TestPeerThatDoesNotRead: the window is open, the socket is full.
func TestPeerThatDoesNotRead(t *testing.T) {
	r, c := rawServer(t, Options{WriteTimeout: 50 * time.Millisecond}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
	r.fr.WriteWindowUpdate(0, maxWindow-defaultWindow)
	s := send(t, c, false)
	defer s.Close()
	s.SetWriteBy(time.Now().Add(20 * time.Second))
	var err error
	for err == nil {
		err = s.WriteData(make([]byte, 1<<20), false)
	}
	var ce *ConnError
	if !errors.As(err, &ce) || c.Stats().WriteStalls != 1 {
		t.Errorf("%v, %+v", err, c.Stats())
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v: looks like a deadline of the stream's, after which one may wait on", err)
	}
}

// TestServerOfHTTP1: a port whose name promises too much.
func TestServerOfHTTP1(t *testing.T) {
	r, c := rawServer(t, Options{})
	s := send(t, c, true)
	defer s.Close()
	if _, err := io.WriteString(r.nc, "HTTP/1.1 400 Bad Request\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadHead(&header.Head{}); err == nil || !strings.Contains(err.Error(), "the peer answers in HTTP/1") {
		t.Error(err)
	}
}

func TestKeepalive(t *testing.T) {
	r, c := rawServer(t, Options{PingInterval: 10 * time.Millisecond, PingTimeout: 10 * time.Millisecond})
	if err := r.until(func(f http2.Frame) bool { return f.Header().Type == http2.FramePing }); err != nil {
		t.Error(err)
	}
	if err := r.until(func(http2.Frame) bool { return false }); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if c.Stats().PingTimeouts != 1 {
		t.Error(c.Stats())
	}
	if err := c.Err(); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v: looks like a deadline of the stream's, after which one may wait on", err)
	}
}

// TestCloseResets: what the owner leaves unfinished is reset, and its frames
// that are under way do no harm.
func TestCloseResets(t *testing.T) {
	r, c := rawServer(t, Options{})
	s := send(t, c, false)
	s.Close()
	if code, err := r.reset(1); err != nil || code != http2.ErrCodeCancel {
		t.Error(code, err)
	}
	r.headers(1, false, ":status", "200", "x-late", "1")
	r.fr.WriteData(1, true, []byte("late"))
	s = send(t, c, true)
	r.headers(3, true, ":status", "200", "x-late", "1")
	var h header.Head
	if err := s.ReadHead(&h); err != nil || h.Fields.First("x-late") != "1" {
		t.Error(h, err)
	}
	s.Close()
	if c.ActiveStreams() != 0 {
		t.Error(c.ActiveStreams())
	}
}

func TestShutdown(t *testing.T) {
	handled := make(chan *Stream, 2)
	server, c := rawClient(t, Options{Handler: func(s *Stream) { handled <- s }})
	server.headers(1, true, get...)
	s := <-handled
	c.Shutdown()
	var last []uint32
	err := server.until(func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			last = append(last, f.LastStreamID)
		case *http2.PingFrame:
			if len(last) == 1 { // a request that was on its way
				server.headers(3, true, get...)
				server.fr.WritePing(true, f.Data)
			}
		}
		return len(last) == 2
	})
	if err != nil || last[0] != maxStreamID || last[1] != 3 {
		t.Fatal(last, err)
	}
	server.headers(5, true, get...) // too late, ignored
	page(<-handled)
	page(s)
	if err := server.until(func(http2.Frame) bool { return false }); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestExtendedConnect(t *testing.T) {
	a, b := pipe(t)
	server := NewConn(b, Options{Server: true, ExtendedConnect: true, Handler: func(s *Stream) {
		go func() {
			defer s.Close()
			if h := s.Head(); h.Upgrade != "websocket" || h.Method != "CONNECT" || h.Path != "/chat" {
				t.Errorf("%+v", h)
			}
			s.WriteHead(&header.Head{Status: 200, Framing: header.Open}, false)
			nc := s.NetConn()
			io.Copy(nc, nc)
			nc.(interface{ CloseWrite() error }).CloseWrite()
		}()
	}})
	client := NewConn(a, Options{})
	serve(t, server)
	serve(t, client)
	s, _ := client.Open()
	req := request("GET", "/chat", true)
	req.Upgrade = "websocket"
	var err error
	for err = s.WriteHead(req, false); err == ErrNoExtendedConnect; err = s.WriteHead(req, false) {
		if ready, ok := client.Ready(); ready && !ok {
			t.Fatal("not offered")
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Flush()
	var h header.Head
	if err := s.ReadHead(&h); err != nil || h.Status != 200 {
		t.Fatal(h.Status, err)
	}
	nc := s.NetConn()
	var _ net.Conn = nc
	io.WriteString(nc, "ping")
	got := make([]byte, 4)
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != "ping" {
		t.Error(string(got), err)
	}
	nc.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := nc.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	nc.SetReadDeadline(time.Time{})
	nc.(interface{ CloseWrite() error }).CloseWrite()
	if _, err := nc.Read(got); err != io.EOF {
		t.Error(err)
	}
	nc.Close()
	s.Close() // twice does no harm
}

// A client that does not answer the PING between the two GOAWAYs does not keep
// a draining connection.
func TestShutdownOfAMuteClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := NewConn(b, Options{Server: true})
		r := newRaw(t, a)
		ended := make(chan error, 1)
		go func() { ended <- c.Serve() }()
		go func() {
			io.WriteString(a, Preface)
			r.fr.WriteSettings()
		}()
		start, goAways := time.Now(), 0
		c.Shutdown()
		if err := r.until(func(f http2.Frame) bool {
			if f.Header().Type == http2.FrameGoAway {
				goAways++
			}
			return false
		}); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		<-ended
		if took := time.Since(start); took != drainWait || goAways != 2 {
			t.Errorf("%v, %d GOAWAYs", took, goAways)
		}
	})
}
