package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	goruntime "runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Whether a caller has left is asked while its body is awaited: the question
// must not wait for the body too, or no timeout and no early response gets past
// a caller that pauses.
func TestGoneWhileTheBodyIsAwaited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	d := newDownstream(New(Options{}), netip.AddrPort{}, raw)
	d.rt = &runtime{bound: map[netip.AddrPort]*listener{{}: {Listener: &ir.Listener{}}}}
	d.findListener()
	reading := make(chan error)
	go func() {
		reading <- nil
		_, err := d.conn.Read(make([]byte, 1))
		reading <- err
	}()
	<-reading
	for _, want := range []bool{false, true} {
		answer := make(chan bool)
		go func() {
			for n := 0; n < 1000 || d.closedByPeer() != want; n++ { // the reader may not wait yet, and a close takes a moment
				if d.closedByPeer() && !want {
					t.Error("gone, it says")
				}
				goruntime.Gosched()
			}
			answer <- true
		}()
		select {
		case <-answer:
		case <-time.After(5 * time.Second):
			t.Errorf("no answer, where gone is %v", want)
		}
		client.Close()
	}
	<-reading
	raw.Close()
}

// The goroutine that reads a body may be told to stop before it has begun: what
// it arms then must not undo that, or it waits for minutes.
func TestWakeBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		c := newHTTP1Conn(newDownstream(New(Options{}), netip.AddrPort{}, server))
		go io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
		if err := c.ReadRequest(&c.x.req); err != nil {
			t.Fatal(err)
		}
		wait := func() time.Duration {
			start := time.Now()
			c.readBy(start.Add(streamIdle), deadlineSlack)
			if _, _, err := c.Next(); !isTimeout(err) {
				t.Error(err)
			}
			return time.Since(start)
		}
		c.wake()
		if took := wait(); took != 0 {
			t.Errorf("woken, it waited for %v", took)
		}
		c.rearm()
		if took := wait(); took != streamIdle {
			t.Errorf("armed again, it waited for %v", took)
		}
	})
}

// A caller that leaves in the middle of its body, with the response under way,
// is what went wrong: not the upstream, nor the time.
func TestCallerLeavesBothHalves(t *testing.T) {
	for _, between := range []string{"http1", "http2"} {
		t.Run(between, func(t *testing.T) {
			m, _ := newMeshOver(t, hops{"http1", between, "http1"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.NewResponseController(w).EnableFullDuplex()
				io.WriteString(w, "begun\n")
				w.(http.Flusher).Flush()
				io.Copy(io.Discard, r.Body)
			}), nil)
			c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, "POST /left HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
			for r := bufio.NewReader(c); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if line == "begun\n" {
					break
				}
			}
			c.Close()
			if log := m.logA.wait(t, "/left"); !strings.Contains(log, " DC ") {
				t.Error(log)
			}
		})
	}
}
