package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

type collabRoom struct {
	*testing.T
	hub *hub
	url string
}

func newCollab(t *testing.T) collabRoom {
	h := newHub(quiet())
	srv := httptest.NewServer(logged(quiet(), http.MaxBytesHandler(h.handler(), maxBody)))
	t.Cleanup(func() {
		h.close()
		srv.Close()
	})
	return collabRoom{t, h, srv.URL}
}

func (r collabRoom) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	r.Cleanup(cancel)
	return ctx
}

func (r collabRoom) join(path string) *websocket.Conn {
	r.Helper()
	conn, _, err := websocket.Dial(r.ctx(), r.url+path, nil)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { conn.CloseNow() })
	return conn
}

func (r collabRoom) send(conn *websocket.Conn, text string) {
	r.Helper()
	if err := conn.Write(r.ctx(), websocket.MessageText, []byte(text)); err != nil {
		r.Fatal(err)
	}
}

func (r collabRoom) read(conn *websocket.Conn) collabMessage {
	r.Helper()
	_, b, err := conn.Read(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	var m collabMessage
	if err := json.Unmarshal(b, &m); err != nil {
		r.Fatal(err)
	}
	return m
}

// clients is how many are in a room.
func (r collabRoom) clients(name string) int {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	if rm := r.hub.rooms[name]; rm != nil {
		return len(rm.clients)
	}
	return 0
}

func TestCollabBroadcast(t *testing.T) {
	r := newCollab(t)
	a, b := r.join("/ws"), r.join("/ws/any?room=main")
	other := r.join("/ws?room=other")
	eventually(t, "both are in", func() bool { return r.clients("main") == 2 })
	r.send(a, "hello")
	got := r.read(a)
	if got.Text != "hello" || got.Seq != 1 || got.From == "" || r.read(b) != got {
		t.Errorf("%+v", got)
	}
	r.send(b, "world")
	if m := r.read(a); m.Text != "world" || m.Seq != 2 || m.From == got.From {
		t.Errorf("%+v", m)
	}
	r.send(other, "apart")
	if m := r.read(other); m.Text != "apart" || m.Seq != 1 {
		t.Errorf("another room: %+v", m)
	}
	if m := r.read(r.join("/ws?room=main")); m.Text != "world" || m.Seq != 2 {
		t.Errorf("a newcomer got %+v", m)
	}
	a.Close(websocket.StatusNormalClosure, "")
	eventually(t, "a is out", func() bool { return r.clients("main") == 2 })
}

func TestCollabRefuses(t *testing.T) {
	r := newCollab(t)
	for path, want := range map[string]int{"/": 404, "/ws": 426, "/ws?room=" + strings.Repeat("x", 65): 400, "/readyz": 200} {
		if status, text := request(t, "GET", r.url+path, ""); status != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	_, resp, err := websocket.Dial(r.ctx(), r.url+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.example"}}})
	if err == nil || resp == nil || resp.StatusCode != 403 {
		t.Errorf("a foreign origin: %v", err)
	}
	for name, c := range map[string]struct {
		kind websocket.MessageType
		size int
		want websocket.StatusCode
	}{
		"too long": {websocket.MessageText, maxMessage + 1, websocket.StatusMessageTooBig},
		"binary":   {websocket.MessageBinary, 1, websocket.StatusUnsupportedData},
	} {
		conn := r.join("/ws")
		if err := conn.Write(r.ctx(), c.kind, make([]byte, c.size)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := conn.Read(r.ctx()); websocket.CloseStatus(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCollabLimits(t *testing.T) {
	h := newHub(quiet())
	first, err := h.join("main")
	if err != nil {
		t.Fatal(err)
	}
	for range maxRoom - 1 {
		if _, err := h.join("main"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.join("main"); err == nil {
		t.Error("a full room took one more")
	}
	h.leave("main", first)
	if _, err := h.join("main"); err != nil {
		t.Errorf("after one left: %v", err)
	}
	var last *client
	for i := range maxRooms - 1 {
		if last, err = h.join(fmt.Sprint("room", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.join("one more"); err == nil {
		t.Error("a full house took one more room")
	}
	h.leave(fmt.Sprint("room", maxRooms-2), last)
	if _, err := h.join("one more"); err != nil {
		t.Errorf("with an empty room to forget: %v", err)
	}
}

// A client that does not read is dropped; the others go on.
func TestCollabDropsTheSlow(t *testing.T) {
	h := newHub(quiet())
	slow, err := h.join("main")
	if err != nil {
		t.Fatal(err)
	}
	quick, err := h.join("main")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxBehind + 1 {
		h.broadcast("main", quick, "x")
		if m := string(<-quick.out); !strings.Contains(m, fmt.Sprintf(`"seq":%d}`, i+1)) {
			t.Fatalf("message %d: %s", i, m)
		}
	}
	select {
	case <-slow.gone:
	default:
		t.Error("the slow client was not dropped")
	}
	h.broadcast("main", slow, "from the grave")
	if len(quick.out) != 0 {
		t.Error("a dropped client spoke")
	}
}

func TestCollabSaysGoodbye(t *testing.T) {
	r := newCollab(t)
	conn := r.join("/ws")
	eventually(t, "it is in", func() bool { return r.clients("main") == 1 })
	closed := make(chan struct{})
	go func() { r.hub.close(); close(closed) }()
	if _, _, err := conn.Read(r.ctx()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("%v", err)
	}
	<-closed
	if status, _ := request(t, "GET", r.url+"/ws", ""); status != 503 {
		t.Errorf("after close: %d", status)
	}
}
