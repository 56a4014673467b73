package h2

import (
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/header"
)

// TestMain fails if a connection's goroutines outlive the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	deadline := time.Now().Add(5 * time.Second)
	for code == 0 && leaked() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			os.Stderr.Write(buf[:runtime.Stack(buf, true)])
			code = 1
		}
		runtime.Gosched()
	}
	os.Exit(code)
}

func leaked() bool {
	buf := make([]byte, 1<<20)
	return strings.Contains(string(buf[:runtime.Stack(buf, true)]), "internal/h2.(*")
}

// script is a connection whose input is given and whose output is forgotten.
type script struct {
	net.Conn
	in io.Reader
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzConn feeds a server whatever comes behind the Preface and the SETTINGS.
// It must not panic or hang, and when it is through every stream must have
// been given back.
func FuzzConn(f *testing.F) {
	seed := func(write func(r *raw)) {
		a, b := net.Pipe()
		r := newRaw(f, a)
		go func() {
			write(r)
			a.Close()
		}()
		all, _ := io.ReadAll(b)
		f.Add(all)
	}
	seed(func(r *raw) { r.headers(1, true, get...) })
	seed(func(r *raw) {
		r.headers(1, false, append(get[:len(get):len(get)], "content-length", "5", "cookie", "a=1", "cookie", "b=2", "te", "trailers")...)
		r.fr.WriteDataPadded(1, false, []byte("he"), []byte{0, 0})
		r.fr.WriteData(1, false, []byte("llo"))
		r.headers(1, true, "x-sum", "1")
	})
	seed(func(r *raw) {
		b := r.block(get...)
		r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3], EndStream: true})
		r.fr.WriteContinuation(1, true, b[3:])
		r.fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 100}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		r.fr.WriteWindowUpdate(1, 10)
		r.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		r.fr.WritePing(false, [8]byte{})
		r.fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		settings := appendFrame(nil, 0, frameSettings, 0, 0)
		in = append(append([]byte(Preface), settings...), in...)
		done := make(chan struct{})
		running := make(chan struct{}, 10000)
		c := NewConn(&script{in: strings.NewReader(string(in))}, Options{Server: true, ExtendedConnect: true, Handler: func(s *Stream) {
			running <- struct{}{}
			go func() {
				echo(s)
				done <- struct{}{}
			}()
		}})
		if c.Serve() == nil {
			t.Error("no reason")
		}
		for range len(running) {
			<-done
		}
		if n := c.ActiveStreams(); n != 0 {
			t.Errorf("%d streams were not given back", n)
		}
		if len(c.streams) != 0 {
			t.Errorf("%d streams are registered", len(c.streams))
		}
	})
}

// FuzzHpack: what our encoder writes our decoder reads, whatever the table
// size does in between, and arbitrary blocks do no harm.
func FuzzHpack(f *testing.F) {
	f.Add("a", "1", uint16(4096), []byte{0x82})
	f.Add("b", "secret", uint16(40), []byte{0x3f, 0xe1, 0x1f})
	f.Fuzz(func(t *testing.T, name, value string, size uint16, block []byte) {
		o := Options{}
		o.defaults()
		var m message
		var h header.Head
		var a arena
		garbage := newDecoder()
		m.begin(&h, &a, &o, true)
		garbage.decode(block, &m)
		name = "x-" + name
		if !validName(name) || !validValue(value) || len(name)+2*len(value) > 20000 {
			return
		}
		e, d := newEncoder(), newDecoder()
		for i := range 6 { // literal, inserted, found; the same with another table size
			if i == 3 {
				e.setMax(uint32(size))
			}
			want := []header.Field{{Name: name, Value: value}, {Name: "authorization", Value: value}, {Name: "x-other", Value: value + value}}
			b := e.begin(nil)
			for _, f := range want {
				b = e.field(b, f.Name, f.Value)
			}
			m.begin(&h, &a, &o, false)
			if err := d.decode(b, &m); err != nil || m.bad != "" || !slices.Equal(h.Fields.Fields, want) {
				t.Fatal(i, err, m.bad, h.Fields.Fields)
			}
		}
	})
}
