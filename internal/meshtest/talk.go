package meshtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// talk is a conversation by lines (TCP) or messages (WebSocket).
type talk interface {
	open(o *outcome)
	send(text string) error
	receive() (string, error)
	closeWrite() error
	close()
}

// talkTimeout ends a conversation in which nobody speaks.
const talkTimeout = 24 * time.Hour

// talk is the conversation that a question asks for; nil: it is a request.
func (q *asking) talk() talk {
	switch q.req.method {
	case "TCP":
		return &tcpTalk{client: q.pod.client, address: q.req.url}
	case "TLS":
		return &tcpTalk{client: q.pod.client, address: q.req.url, tls: true}
	case "WEBSOCKET":
		return &webSocketTalk{client: q.pod.client, req: q.req}
	}
	return nil
}

// converse plays the dialogue under a step: "sends TEXT", "reads TEXT" (with *
// for anything), "pauses DURATION", "half-closes", "is closed", "is reset".
func (r *runner) converse(st *step, t talk, id string) (o outcome) {
	o = outcome{id: id, started: time.Now(), header: http.Header{}}
	defer func() { o.took = time.Since(o.started) }()
	defer t.close()
	if t.open(&o); o.err != nil {
		return o
	}
	for _, l := range st.block {
		word, rest, _ := strings.Cut(l.text, " ")
		switch {
		case word == "sends":
			o.err = t.send(unquote(rest))
		case word == "reads":
			var got string
			if got, o.err = t.receive(); o.err == nil {
				o.body = got
				noteInstance(&o, got)
				if ok, err := path.Match(unquote(rest), got); err != nil || !ok {
					r.errorf(l.line, "read %q", got)
				}
			}
		case word == "pauses":
			d, err := time.ParseDuration(rest)
			if err != nil {
				r.errorf(l.line, "%v", err)
			}
			pause(context.Background(), d)
		case l.text == "half-closes":
			o.err = t.closeWrite()
		case l.text == "is closed", l.text == "is reset":
			got, err := t.receive()
			if want := strings.TrimPrefix(l.text, "is "); failure(err) != want {
				r.errorf(l.line, "read %q, %v", got, err)
			}
		}
		if o.err != nil {
			return o
		}
	}
	return o
}

// noteInstance reads who speaks: "INSTANCE: text" or "hello from INSTANCE".
func noteInstance(o *outcome, line string) {
	name, ok := strings.CutPrefix(line, "hello from ")
	if !ok {
		name, _, ok = strings.Cut(line, ": ")
	}
	if ok {
		o.header.Set(instanceHeader, name)
	}
}

// dialogue reports whether a line was played by converse.
func dialogue(text string) bool {
	word, _, _ := strings.Cut(text, " ")
	switch word {
	case "sends", "reads", "pauses", "half-closes":
		return true
	}
	return text == "is closed" || text == "is reset"
}

// tcpTalk is a plain connection, or TLS for the address's name.
type tcpTalk struct {
	tls     bool
	client  *client
	address string
	conn    net.Conn
	in      *bufio.Reader
}

func (t *tcpTalk) open(o *outcome) {
	c, err := t.client.dial(context.Background(), "tcp", t.address)
	if err != nil {
		o.err = err
		return
	}
	c.SetDeadline(time.Now().Add(talkTimeout))
	if t.tls {
		conf := t.client.transport.TLSClientConfig.Clone()
		conf.ServerName, _, _ = net.SplitHostPort(t.address)
		secure := tls.Client(c, conf)
		if o.err = secure.Handshake(); o.err != nil {
			c.Close()
			return
		}
		c = secure
	}
	t.conn, t.in = c, bufio.NewReader(c)
}

func (t *tcpTalk) send(text string) error {
	_, err := fmt.Fprintf(t.conn, "%s\n", text)
	return err
}

func (t *tcpTalk) receive() (string, error) {
	s, err := t.in.ReadString('\n')
	return strings.TrimSuffix(s, "\n"), err
}

func (t *tcpTalk) closeWrite() error { return t.conn.(interface{ CloseWrite() error }).CloseWrite() }

func (t *tcpTalk) close() {
	if t.conn != nil {
		t.conn.Close()
	}
}

// webSocketTalk is a WebSocket by the stock library.
type webSocketTalk struct {
	client *client
	req    *request
	conn   *websocket.Conn
	leave  func() // closes the connection below; nil: it is the client's
}

func (t *webSocketTalk) open(o *outcome) {
	ctx, cancel := context.WithTimeout(context.Background(), talkTimeout)
	defer cancel()
	h := t.req.header.Clone()
	h.Set(requestHeader, o.id)
	over := http.RoundTripper(t.client.transport)
	if p := t.client.world.protocol; p == overH2 || p == overHTTP2 {
		extended := newExtendedConnect(t.client)
		//lint:ignore SA1019 net/http makes no extended CONNECT
		over, t.leave = extended, extended.transport.CloseIdleConnections
	}
	c, resp, err := websocket.Dial(ctx, t.req.url, &websocket.DialOptions{HTTPClient: &http.Client{Transport: over}, HTTPHeader: h})
	t.conn = c
	if resp != nil {
		o.status, o.header = resp.StatusCode, resp.Header
		if resp.StatusCode != http.StatusSwitchingProtocols {
			return // refused: the status is the outcome
		}
	}
	o.err = err
}

func (t *webSocketTalk) send(text string) error {
	if t.conn == nil {
		return fmt.Errorf("there is no WebSocket")
	}
	return t.conn.Write(context.Background(), websocket.MessageText, []byte(text))
}

func (t *webSocketTalk) receive() (string, error) {
	if t.conn == nil {
		return "", fmt.Errorf("there is no WebSocket")
	}
	ctx, cancel := context.WithTimeout(context.Background(), talkTimeout)
	defer cancel()
	_, b, err := t.conn.Read(ctx)
	return string(b), err
}

func (t *webSocketTalk) closeWrite() error { return fmt.Errorf("a WebSocket has no half-close") }

func (t *webSocketTalk) close() {
	if t.conn != nil {
		t.conn.Close(websocket.StatusNormalClosure, "")
	}
	if t.leave != nil {
		t.leave()
	}
}
