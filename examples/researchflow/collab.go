package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

const (
	maxMessage = 64 << 10 // bytes
	maxRoom    = 100      // clients of a room
	maxRooms   = 256
	maxName    = 64 // characters of a room's name
	maxBehind  = 32 // messages a client may lag before it is dropped
	pingEvery  = 20 * time.Second
	wsTimeout  = 10 * time.Second // of one write or ping
)

// runCollab is the collab role. The rooms live in this process: one replica.
func runCollab(ctx context.Context, env environ, log *slog.Logger) error {
	h := newHub(log)
	for origin := range strings.SplitSeq(env("ALLOWED_ORIGINS"), ",") {
		if origin = strings.TrimSpace(origin); origin != "" {
			h.origins = append(h.origins, origin)
		}
	}
	err := listenHTTP(ctx, log, env.address("1234"), h.handler())
	h.close()
	return err
}

// hub holds the rooms. Safe for concurrent use.
type hub struct {
	log     *slog.Logger
	origins []string // host patterns allowed besides the request's own; read-only
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup // of the clients' handlers

	mu     sync.Mutex
	closed bool             // guarded by mu
	rooms  map[string]*room // guarded by mu, and so is what is in them
	lastID int              // guarded by mu
}

type room struct {
	clients map[*client]struct{}
	seq     int
	last    []byte // the last message, for newcomers; nil before the first
}

type client struct {
	id   string
	out  chan []byte   // closed never; the writer stops with gone
	gone chan struct{} // closed when the client is dropped or leaves
}

// collabMessage is what every client of a room receives.
type collabMessage struct {
	From string `json:"from"`
	Text string `json:"text"`
	Seq  int    `json:"seq"` // counts the messages of the room from 1
}

func newHub(log *slog.Logger) *hub {
	return &hub{log: log, done: make(chan struct{}), rooms: map[string]*room{}}
}

func (h *hub) handler() http.Handler {
	mux := http.NewServeMux()
	mountHealth(mux, nil)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/ws") {
			writeError(w, http.StatusNotFound, "the rooms are under /ws")
			return
		}
		h.serve(w, r)
	})
	return mux
}

// close says goodbye to every client and waits for their handlers.
func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.once.Do(func() { close(h.done) })
	h.wg.Wait()
}

// serve is one client: it joins its room before the upgrade, so that a full
// room is an HTTP answer and no message is missed.
func (h *hub) serve(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("room")
	if name == "" {
		name = "main"
	}
	if utf8.RuneCountInString(name) > maxName {
		writeError(w, http.StatusBadRequest, "the name of a room has at most %d characters", maxName)
		return
	}
	c, err := h.join(name)
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	defer h.wg.Done()
	defer h.leave(name, c)
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: h.origins})
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxMessage)
	log := h.log.With("room", name, "client", c.id)
	log.Info("joined")

	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.CloseNow() // ends both goroutines' writes
	defer h.leave(name, c)
	wg.Go(func() { h.write(conn, c) })
	wg.Go(func() { ping(conn, c) })
	for {
		kind, text, err := conn.Read(context.Background())
		if err != nil {
			log.Info("left", "reason", err.Error())
			return
		}
		if kind != websocket.MessageText {
			conn.Close(websocket.StatusUnsupportedData, "text only")
			return
		}
		h.broadcast(name, c, string(text))
	}
}

// join counts the handler in wg; who called it calls wg.Done.
func (h *hub) join(name string) (*client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("collab is stopping")
	}
	rm := h.rooms[name]
	if rm == nil {
		if len(h.rooms) >= maxRooms && !h.evictLocked() {
			return nil, fmt.Errorf("there are %d rooms already", maxRooms)
		}
		rm = &room{clients: map[*client]struct{}{}}
		h.rooms[name] = rm
	}
	if len(rm.clients) >= maxRoom {
		return nil, fmt.Errorf("room %q has %d clients already", name, maxRoom)
	}
	h.lastID++
	c := &client{id: fmt.Sprintf("c%d", h.lastID), out: make(chan []byte, maxBehind), gone: make(chan struct{})}
	rm.clients[c] = struct{}{}
	if rm.last != nil {
		c.out <- rm.last
	}
	h.wg.Add(1)
	return c, nil
}

// evictLocked forgets one empty room. Empty rooms stay until then, so that a
// lone user may reload the page.
func (h *hub) evictLocked() bool {
	for name, rm := range h.rooms {
		if len(rm.clients) == 0 {
			delete(h.rooms, name)
			return true
		}
	}
	return false
}

func (h *hub) leave(name string, c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(h.rooms[name], c)
}

// dropLocked may be called more than once for a client.
func (h *hub) dropLocked(rm *room, c *client) {
	if rm == nil {
		return
	}
	if _, in := rm.clients[c]; in {
		delete(rm.clients, c)
		close(c.gone)
	}
}

// broadcast never waits: a client whose queue is full is dropped.
func (h *hub) broadcast(name string, from *client, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rm := h.rooms[name]
	if _, in := rm.clients[from]; !in {
		return // dropped meanwhile
	}
	rm.seq++
	b, err := json.Marshal(collabMessage{From: from.id, Text: text, Seq: rm.seq})
	if err != nil {
		h.log.Error("message not encoded", "error", err.Error())
		return
	}
	rm.last = b
	for c := range rm.clients {
		select {
		case c.out <- b:
		default:
			h.log.Warn("client dropped: too slow", "room", name, "client", c.id)
			h.dropLocked(rm, c)
		}
	}
}

// write sends the queue of c until it is gone. Closing the connection is what
// ends its reader.
func (h *hub) write(conn *websocket.Conn, c *client) {
	for {
		select {
		case b := <-c.out:
			ctx, cancel := context.WithTimeout(context.Background(), wsTimeout)
			err := conn.Write(ctx, websocket.MessageText, b)
			cancel()
			if err != nil {
				conn.CloseNow()
				return
			}
		case <-c.gone:
			conn.CloseNow()
			return
		case <-h.done:
			conn.Close(websocket.StatusGoingAway, "collab is stopping")
			return
		}
	}
}

// ping finds connections whose peer is silently gone.
func ping(conn *websocket.Conn, c *client) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.gone:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), wsTimeout)
		err := conn.Ping(ctx)
		cancel()
		if err != nil {
			conn.CloseNow()
			return
		}
	}
}
