package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// talk sends raw bytes to a new server and returns all it answers.
func talk(t *testing.T, s *redisServer, send string) string {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.handle(server)
		server.Close()
	}()
	go io.WriteString(client, send)
	b, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	return string(b)
}

func TestRedisCommands(t *testing.T) {
	const quit = "QUIT\r\n"
	for _, c := range []struct{ name, send, want string }{
		{"inline", "ping\r\n\r\n  echo   a \r\n", "+PONG\r\n$1\r\na\r\n"},
		{"array", "*2\r\n$4\r\nPING\r\n$2\r\nhi\r\n*0\r\n", "$2\r\nhi\r\n"},
		{"binary", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\nGET k\r\n", "+OK\r\n$4\r\na\r\nb\r\n"},
		{"strings", "GET k\r\nSET k v\r\nGET k\r\nEXISTS k k no\r\nDEL k no\r\nGET k\r\n", "$-1\r\n+OK\r\n$1\r\nv\r\n:2\r\n:1\r\n$-1\r\n"},
		{"incr", "INCR n\r\nINCR n\r\nSET n x\r\nINCR n\r\nSET n 9223372036854775807\r\nINCR n\r\n",
			":1\r\n:2\r\n+OK\r\n-" + string(errInteger) + "\r\n+OK\r\n-" + string(errInteger) + "\r\n"},
		{"hashes", "HSET h a 1 b 2\r\nHSET h a 3\r\nHGET h a\r\nHGET h c\r\nHGETALL h\r\nHDEL h a c\r\nHDEL h b\r\nHGETALL h\r\nKEYS *\r\n",
			":2\r\n:0\r\n$1\r\n3\r\n$-1\r\n*4\r\n$1\r\na\r\n$1\r\n3\r\n$1\r\nb\r\n$1\r\n2\r\n:1\r\n:1\r\n*0\r\n*0\r\n"},
		{"wrong type", "HSET h a 1\r\nGET h\r\nINCR h\r\nSET h v\r\nHGET h a\r\n",
			":1\r\n-" + string(errWrongType) + "\r\n-" + string(errWrongType) + "\r\n+OK\r\n-" + string(errWrongType) + "\r\n"},
		{"keys", "SET ab 1\r\nHSET cb f v\r\nKEYS *b\r\nKEYS a*\r\nKEYS a?\r\n",
			"+OK\r\n:1\r\n*2\r\n$2\r\nab\r\n$2\r\ncb\r\n*1\r\n$2\r\nab\r\n-ERR only * is supported in a pattern\r\n"},
		{"session", "SELECT 0\r\nSELECT 1\r\nCOMMAND DOCS\r\nCLIENT SETNAME x\r\n", "+OK\r\n-ERR DB index is out of range\r\n*0\r\n+OK\r\n"},
		{"errors", "FLY\r\nGET\r\nHSET h a\r\nHSET h a 1 b\r\nSET a b EX 3\r\n",
			"-ERR unknown command 'FLY'\r\n-ERR wrong number of arguments for 'get' command\r\n-ERR wrong number of arguments for 'hset' command\r\n" +
				"-ERR wrong number of arguments for 'hset' command\r\n-ERR syntax error\r\n"},
	} {
		if got := talk(t, newRedisServer(), c.send+quit); got != c.want+"+OK\r\n" {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
	if info := talk(t, newRedisServer(), "INFO server\r\nQUIT\r\n"); !strings.Contains(info, "redis_version:") {
		t.Errorf("INFO: %q", info)
	}
}

func TestRedisLimits(t *testing.T) {
	for send, want := range map[string]string{
		"*1025\r\n":                         "invalid multibulk length",
		"*x\r\n":                            "invalid multibulk length",
		"*1\r\n$1048577\r\n":                "invalid bulk length",
		"*1\r\n$-1\r\n":                     "invalid bulk length",
		"*1\r\n:1\r\n":                      "expected '$'",
		"*1\r\n$1\r\nabc\r\n":               "does not end",
		strings.Repeat("a", respMaxLine+10): "too big inline request",
		"*9\r\n" + strings.Repeat("$1048576\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 9): "too big request",
	} {
		if got := talk(t, newRedisServer(), send); !strings.HasPrefix(got, "-ERR Protocol error: ") || !strings.Contains(got, want) {
			t.Errorf("%.30q: %q, want %q", send, got, want)
		}
	}
	if got := talk(t, newRedisServer(), "POST / HTTP/1.1\r\n"); got != "" {
		t.Errorf("a browser got %q", got)
	}
}

func TestRedisMemory(t *testing.T) {
	s := newRedisServer()
	s.maxMemory = 100
	big := strings.Repeat("x", 60)
	got := talk(t, s, "SET a "+big+"\r\nSET b "+big+"\r\nHSET h f "+big+"\r\nSET a "+big+"\r\nDEL a\r\nHSET h f "+big+"\r\nDEL h\r\nQUIT\r\n")
	oom := "-" + string(errMemory) + "\r\n"
	if want := "+OK\r\n" + oom + oom + "+OK\r\n:1\r\n:1\r\n:1\r\n+OK\r\n"; got != want {
		t.Errorf("got %q want %q", got, want)
	}
	if s.used != 0 {
		t.Errorf("%d bytes used by nothing", s.used)
	}
}

func TestGlobMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true},
		{"a*a", "a", false}, {"a*b*c", "axbyc", true}, {"a*b*c", "acb", false}, {"**", "x", true}, {"*x*", "aba", false},
	} {
		if globMatch(c.pattern, c.s) != c.want {
			t.Errorf("%q %q: not %v", c.pattern, c.s, c.want)
		}
	}
}

func TestRedisClient(t *testing.T) {
	c := newRedisClient(startRedis(t))
	defer c.close()
	ctx := t.Context()
	if err := c.ping(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.hset(ctx, "h", "f", "v\r\nw"); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := c.hget(ctx, "h", "f"); v != "v\r\nw" || !ok || err != nil {
		t.Errorf("hget %q %v %v", v, ok, err)
	}
	if _, ok, err := c.hget(ctx, "h", "g"); ok || err != nil {
		t.Errorf("hget of nothing: %v %v", ok, err)
	}
	if h, err := c.hgetall(ctx, "h"); len(h) != 1 || h["f"] == "" || err != nil {
		t.Errorf("hgetall %v %v", h, err)
	}
	if _, err := c.incr(ctx, "h"); !errors.As(err, new(redisError)) || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("incr of a hash: %v", err)
	}
	if ok, err := c.hdel(ctx, "h", "f"); !ok || err != nil {
		t.Errorf("hdel %v %v", ok, err)
	}
	if len(c.idle) != 1 {
		t.Errorf("%d idle connections after commands in a row", len(c.idle))
	}
}

// A Redis that restarted is used again at once, over a new connection.
func TestRedisClientReconnects(t *testing.T) {
	c := newRedisClient(startRedis(t))
	defer c.close()
	near, far := net.Pipe()
	far.Close()
	c.idle <- &redisConn{Conn: near, r: newRespReader(strings.NewReader("")), w: bufio.NewWriter(io.Discard)}
	if err := c.ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRedisClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRedisClient("unused")
		near, far := net.Pipe()
		defer far.Close()
		go io.Copy(io.Discard, far) // a Redis that never answers
		c.idle <- &redisConn{Conn: near, r: newRespReader(near), w: bufio.NewWriter(near)}
		start := time.Now()
		err := c.ping(t.Context())
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() || time.Since(start) != redisTimeout {
			t.Errorf("no answer: %v after %s", err, time.Since(start))
		}
		if len(c.idle) != 0 {
			t.Error("a connection with a reply to come was kept")
		}
	})
}

func TestReadReply(t *testing.T) {
	for send, want := range map[string]string{
		"*2\r\n$1\r\na\r\n:3\r\n":   "",
		"$-1\r\n":                   "",
		"":                          "EOF",
		"*1\r\n":                    "unexpected EOF",
		"?\r\n":                     "Protocol error",
		":x\r\n":                    "Protocol error",
		"$9999999\r\n":              "Protocol error",
		strings.Repeat("*1\r\n", 9): "Protocol error",
	} {
		_, err := readReply(newRespReader(strings.NewReader(send)))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", send, err, want)
		}
	}
}

func FuzzReadCommand(f *testing.F) {
	f.Add("*1\r\n$4\r\nPING\r\n")
	f.Add("GET a\r\n")
	f.Fuzz(func(t *testing.T, send string) {
		words, err := readCommand(newRespReader(strings.NewReader(send)))
		if err == nil && len(words) > respMaxLine {
			t.Errorf("%d words", len(words))
		}
	})
}
