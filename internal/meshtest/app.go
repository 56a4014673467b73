package meshtest

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// instanceHeader says in a response which instance answered.
const instanceHeader = "X-Instance"

// requestHeader numbers the requests of a script, so that what applications
// saw can be told apart.
const requestHeader = "X-Mesh-Request"

// app is one instance's application: a net/http server (HTTP/1.1 and cleartext
// HTTP/2) or a TCP server on each of its ports.
type app struct {
	name    string
	servers []*http.Server
	grpc    *grpc.Server // reached through the HTTP servers
	sockets []net.Listener
	wg      sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc

	// handler, if set, answers instead; for tests in Go, before any request.
	handler http.Handler
	// stream, if set, answers gRPC calls instead; likewise.
	stream func(method string, s grpc.ServerStream) error

	mu     sync.Mutex
	now    *behaviour
	seen   []seen
	conns  map[net.Conn]bool // of TCP ports
	opened int               // TCP connections accepted
}

// seen is one request as an application received it.
type seen struct {
	id       string // of the script's request
	instance string
	proto    string
	method   string
	path     string // with query
	host     string
	header   http.Header
	trailer  http.Header
	body     int64
	at       time.Time
}

// behaviour is what an application does with requests. One may be shared by
// several instances.
type behaviour struct {
	mu     sync.Mutex
	left   int // requests it is still for; -1: all
	status int
	delay  time.Duration
	header http.Header
	body   string
	hang   chan struct{} // closed when the script releases the requests
	action string        // "", or one of actions
}

// actions change more than what is answered.
var actions = []string{"reset", "close", "close after response", "breaks off", "answers early", "speak first", "status at the end"}

func normal() *behaviour { return &behaviour{left: -1} }

// take reports whether the behaviour is for this request too.
func (b *behaviour) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		return false
	}
	if b.left > 0 {
		b.left--
	}
	return true
}

// newApp serves ports, each with http, https, tcp or tls; certificate is for
// the last and https.
func newApp(h *host, wl *resource.Workload, ports map[uint16]string, certificate *tls.Certificate) (*app, error) {
	a := &app{name: wl.Name, now: normal(), conns: map[net.Conn]bool{}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.grpc = newGRPCServer(a)
	for port, kind := range ports {
		l, err := h.listen(netip.AddrPortFrom(wl.Address, port))
		if err != nil {
			return nil, err
		}
		secure := &tls.Config{Certificates: []tls.Certificate{*certificate}}
		switch kind {
		case "http", "https":
			s := &http.Server{Handler: a, BaseContext: func(net.Listener) context.Context { return a.ctx }, Protocols: new(http.Protocols)}
			s.Protocols.SetHTTP1(true)
			s.Protocols.SetUnencryptedHTTP2(true)
			s.Protocols.SetHTTP2(true)
			s.ErrorLog = log.New(io.Discard, "", 0)
			s.TLSConfig = secure
			a.servers = append(a.servers, s)
			a.wg.Go(func() { // ends with close
				if kind == "https" {
					_ = s.ServeTLS(l, "", "")
				} else {
					_ = s.Serve(l)
				}
			})
		default:
			if kind == "tls" {
				l = tls.NewListener(l, secure)
			}
			a.sockets = append(a.sockets, l)
			a.wg.Go(func() { a.serveTCP(l) })
		}
	}
	return a, nil
}

func (a *app) close() {
	a.cancel()
	a.grpc.Stop()
	for _, s := range a.servers {
		s.Close()
	}
	for _, l := range a.sockets {
		l.Close()
	}
	a.mu.Lock()
	for c := range a.conns {
		c.Close()
	}
	a.mu.Unlock()
	a.wg.Wait()
}

// become replaces the behaviour.
func (a *app) become(b *behaviour) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = b
}

// behave is what to do with the next request.
func (a *app) behave() *behaviour {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.now.take() {
		a.now = normal()
	}
	return a.now
}

// ServeHTTP answers 200 with the request's body, or a greeting if it has none.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.handler != nil {
		a.handler.ServeHTTP(w, r)
		return
	}
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		if u := *r.URL; !strings.HasPrefix(u.Path, authorizerMethods) {
			u.Path = anyService + r.RequestURI
			r.URL = &u
		}
		call := &callWriter{ResponseWriter: w, conn: r.Context()}
		a.grpc.ServeHTTP(call, r.WithContext(context.WithValue(r.Context(), callKey{}, call)))
		return
	}
	b := a.behave()
	var body []byte
	var err error
	if b.action != "answers early" {
		body, err = io.ReadAll(r.Body)
	}
	a.note(seen{id: r.Header.Get(requestHeader), proto: r.Proto, method: r.Method, path: r.RequestURI,
		host: r.Host, header: r.Header.Clone(), trailer: r.Trailer.Clone(), body: int64(len(body)), at: time.Now()})
	if err != nil {
		return // the caller is gone
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		a.serveWebSocket(w, r)
		return
	}
	if !b.wait(r.Context()) {
		return
	}
	switch b.action {
	case "reset", "close":
		cut(w, b.action == "reset")
		return
	case "close after response":
		w.Header().Set("Connection", "close")
	case "breaks off":
		w.Header().Set(instanceHeader, a.name)
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half of it")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, values := range b.header {
		w.Header()[name] = values
	}
	w.Header().Set(instanceHeader, a.name)
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "text/plain")
	}
	w.WriteHeader(cmp.Or(b.status, http.StatusOK))
	switch {
	case b.body != "":
		_, _ = io.WriteString(w, b.body)
	case len(body) > 0:
		_, _ = w.Write(body)
	default:
		fmt.Fprintf(w, "hello from %s\n", a.name)
	}
}

// note keeps what the application saw.
func (a *app) note(s seen) {
	s.instance = a.name
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, s)
}

// wait hangs and delays; false: the caller has gone meanwhile.
func (b *behaviour) wait(ctx context.Context) bool {
	if b.hang != nil {
		select {
		case <-b.hang:
		case <-ctx.Done():
			return false
		}
	}
	return b.delay <= 0 || pause(ctx, b.delay)
}

// cut ends the connection without an answer.
func cut(w http.ResponseWriter, reset bool) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: the stream is reset
	}
	if l, ok := c.(*conn); ok && reset {
		l.SetLinger(0)
	}
	c.Close()
}

// serveWebSocket sends back every message.
func (a *app) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(instanceHeader, a.name)
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(8 << 20)
	for {
		kind, b, err := c.Read(a.ctx)
		if err != nil {
			return
		}
		if err := c.Write(a.ctx, kind, b); err != nil {
			return
		}
	}
}

// serveTCP answers each line with the instance's name and the line.
func (a *app) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		a.conns[c] = true
		a.opened++
		a.mu.Unlock()
		a.wg.Go(func() {
			defer func() {
				c.Close()
				a.mu.Lock()
				delete(a.conns, c)
				a.mu.Unlock()
			}()
			a.echo(c, a.behave())
		})
	}
}

func (a *app) echo(c net.Conn, b *behaviour) {
	switch b.action {
	case "reset":
		if l, ok := c.(*conn); ok {
			l.SetLinger(0)
		}
		return
	case "close":
		return
	case "speak first":
		fmt.Fprintf(c, "hello from %s\n", a.name)
	}
	for s := bufio.NewScanner(c); s.Scan(); {
		if b.delay > 0 && !pause(a.ctx, b.delay) {
			return
		}
		if _, err := fmt.Fprintf(c, "%s: %s\n", a.name, s.Text()); err != nil {
			return
		}
	}
}

// sawRequest returns what the application saw of the script's requests.
func (a *app) sawRequest(ids map[string]bool) []seen {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []seen
	for _, s := range a.seen {
		if ids[s.id] {
			out = append(out, s)
		}
	}
	return out
}
