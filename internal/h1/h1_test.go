package h1

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tulle-mesh/tulle/internal/header"
)

// readAll parses one request with its body from a stream.
func readAll(src io.Reader) (*header.Head, string, *Reader, error) {
	r := NewReader(src)
	h := &header.Head{}
	if err := r.ReadRequest(h); err != nil {
		return nil, "", r, err
	}
	var body strings.Builder
	for {
		b, done, err := r.Next()
		if err != nil {
			return h, body.String(), r, err
		}
		body.Write(b)
		if done {
			return h, body.String(), r, nil
		}
	}
}

func TestRequestsAccepted(t *testing.T) {
	for name, tc := range map[string]struct {
		in, method, host, path, body string
		keepAlive                    bool
	}{
		"get":               {"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "x", "/a?b=c", "", true},
		"length":            {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "POST", "x", "/", "hello", true},
		"chunked":           {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\n\r\n", "POST", "x", "/", "hello!", true},
		"trailers":          {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n0\r\nx-sum: 1\r\n\r\n", "POST", "x", "/", "h", true},
		"close":             {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "GET", "x", "/", "", false},
		"close wins":        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, keep-alive\r\n\r\n", "GET", "x", "/", "", false},
		"1.0":               {"GET / HTTP/1.0\r\n\r\n", "GET", "", "/", "", false},
		"1.0 keep-alive":    {"GET / HTTP/1.0\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n", "GET", "x", "/", "", true},
		"absolute form":     {"GET http://h:8/p?q HTTP/1.1\r\nHost: h:8\r\n\r\n", "GET", "h:8", "/p?q", "", true},
		"absolute, no path": {"GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n", "GET", "h", "/?q", "", true},
		"options star":      {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS", "x", "*", "", true},
		"leading CRLF":      {"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "x", "/", "", true},
		"ipv6 host":         {"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET", "[::1]:80", "/", "", true},
		"blanks in value":   {"GET / HTTP/1.1\r\nHost:\t x \r\n\r\n", "GET", "x", "/", "", true},
		"empty host":        {"GET / HTTP/1.0\r\nHost:\r\n\r\n", "GET", "", "/", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			for how, src := range map[string]io.Reader{
				"whole":  strings.NewReader(tc.in),
				"bytes":  iotest.OneByteReader(strings.NewReader(tc.in)),
				"halves": iotest.HalfReader(strings.NewReader(tc.in)),
			} {
				h, body, _, err := readAll(src)
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if h.Method != tc.method || h.Host != tc.host || h.Path != tc.path || body != tc.body || h.KeepAlive != tc.keepAlive {
					t.Errorf("%s: got %s %q %q %q keepAlive=%v", how, h.Method, h.Host, h.Path, body, h.KeepAlive)
				}
			}
		})
	}
}

func TestRequestsRefused(t *testing.T) {
	const ok = "GET / HTTP/1.1\r\nHost: x\r\n"
	for name, tc := range map[string]struct {
		in     string
		status int
	}{
		"bare LF":                  {"GET / HTTP/1.1\nHost: x\n\n", 400},
		"bare LF in fields":        {"GET / HTTP/1.1\r\nHost: x\n\r\n", 400},
		"bare CR":                  {"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", 400},
		"obs-fold":                 {ok + "X: a\r\n b\r\n\r\n", 400},
		"blank before colon":       {ok + "X : a\r\n\r\n", 400},
		"no colon":                 {ok + "X\r\n\r\n", 400},
		"empty name":               {ok + ": a\r\n\r\n", 400},
		"NUL in value":             {ok + "X: a\x00b\r\n\r\n", 400},
		"CL and TE":                {ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"TE and CL":                {ok + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400},
		"two lengths":              {ok + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
		"list of lengths":          {ok + "Content-Length: 3, 3\r\n\r\nabc", 400},
		"signed length":            {ok + "Content-Length: +3\r\n\r\nabc", 400},
		"negative length":          {ok + "Content-Length: -3\r\n\r\n", 400},
		"hex length":               {ok + "Content-Length: 0x3\r\n\r\nabc", 400},
		"huge length":              {ok + "Content-Length: 99999999999999999999\r\n\r\n", 400},
		"gzip coding":              {ok + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
		"chunked twice":            {ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
		"odd coding":               {ok + "Transfer-Encoding: xchunked\r\n\r\n", 501},
		"TE in 1.0":                {"GET / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"two hosts":                {ok + "Host: y\r\n\r\n", 400},
		"no host":                  {"GET / HTTP/1.1\r\n\r\n", 400},
		"host with path":           {"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400},
		"host with @":              {"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400},
		"target and host differ":   {"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400},
		"userinfo":                 {"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"odd scheme":               {"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"relative target":          {"GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"fragment":                 {"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"blank in target":          {"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"no target":                {"GET  HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"lower case version":       {"GET / http/1.1\r\nHost: x\r\n\r\n", 400},
		"HTTP/2.0":                 {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505},
		"connect":                  {"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405},
		"expectation":              {ok + "Expect: 200-ok\r\n\r\n", 417},
		"head too large":           {ok + "X: " + strings.Repeat("a", MaxHead) + "\r\n\r\n", 431},
		"too many fields":          {ok + strings.Repeat("X: a\r\n", MaxFields+1) + "\r\n", 431},
		"chunk size with sign":     {ok + "Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n", 400},
		"chunk size with 0x":       {ok + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400},
		"chunk size with blank":    {ok + "Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", 400},
		"chunk size too long":      {ok + "Transfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n0\r\n\r\n", 400},
		"chunk size empty":         {ok + "Transfer-Encoding: chunked\r\n\r\n\r\na\r\n0\r\n\r\n", 400},
		"chunk line bare LF":       {ok + "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400},
		"chunk data too long":      {ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400},
		"chunk extension too long": {ok + "Transfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("x", 1000) + "\r\na\r\n0\r\n\r\n", 400},
		"framing in trailer":       {ok + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n", 400},
		"trailers too large":       {ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("x: "+strings.Repeat("y", 1000)+"\r\n", 20) + "\r\n", 431},
	} {
		t.Run(name, func(t *testing.T) {
			for how, src := range map[string]io.Reader{"whole": strings.NewReader(tc.in), "bytes": iotest.OneByteReader(strings.NewReader(tc.in))} {
				_, body, _, err := readAll(src)
				var e *Error
				if !errors.As(err, &e) {
					t.Fatalf("%s: accepted (%v), body %q", how, err, body)
				}
				if e.Status != tc.status {
					t.Errorf("%s: status %d (%s), want %d", how, e.Status, e.Detail, tc.status)
				}
			}
		})
	}
}

func TestHopByHopFieldsStay(t *testing.T) {
	h, _, _, err := readAll(strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Drop, keep-alive\r\nX-Drop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Keep: 1\r\nUpgrade: websocket\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Fields.Fields) != 1 || h.Fields.First("x-keep") != "1" || !h.Trailers {
		t.Errorf("fields %v, trailers %v", h.Fields.Fields, h.Trailers)
	}
	if h.Upgrade != "" {
		t.Error("Upgrade counts only with Connection: upgrade")
	}
}

func TestPipelining(t *testing.T) {
	const two = "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nabGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
	h, body, r, err := readAll(strings.NewReader(two))
	if err != nil || h.Path != "/1" || body != "ab" {
		t.Fatal(h, body, err)
	}
	if err := r.ReadRequest(h); err != nil || h.Path != "/2" {
		t.Fatal(h.Path, err)
	}
	if err := r.ReadRequest(h); err != io.EOF {
		t.Fatal("want io.EOF between requests, got", err)
	}
}

func TestResponses(t *testing.T) {
	for name, tc := range map[string]struct {
		in, method string
		framing    header.Framing
		body       string
		keepAlive  bool
	}{
		"length":      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "GET", header.Length, "hi", true},
		"until close": {"HTTP/1.1 200 OK\r\n\r\nhi", "GET", header.UntilClose, "hi", false},
		"head":        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", header.NoBody, "", true},
		"204":         {"HTTP/1.1 204 No Content\r\n\r\n", "GET", header.NoBody, "", true},
		"304":         {"HTTP/1.1 304\r\nContent-Length: 9\r\n\r\n", "GET", header.NoBody, "", true},
		"zero":        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", header.Length, "", true},
		"chunked":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "GET", header.Open, "hi", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(iotest.OneByteReader(strings.NewReader(tc.in)))
			var h header.Head
			if err := r.ReadResponse(&h, tc.method); err != nil {
				t.Fatal(err)
			}
			var body string
			for {
				b, done, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				body += string(b)
				if done {
					break
				}
			}
			if h.Framing != tc.framing || body != tc.body || h.KeepAlive != tc.keepAlive {
				t.Errorf("framing %d body %q keepAlive %v", h.Framing, body, h.KeepAlive)
			}
		})
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	in := []byte("GET /api/jobs?x=1 HTTP/1.1\r\nHost: worker:8000\r\nUser-Agent: curl/8\r\nAccept: */*\r\nX-Request-Id: 1\r\n\r\n")
	var h header.Head
	buf := make([]byte, len(in))
	if n := testing.AllocsPerRun(100, func() {
		copy(buf, in)
		if err := parseRequest(buf, &h); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per request head", n)
	}
}

// ReadyNow must not promise data that has not arrived: a proxy that believes
// it would sit on what it has.
func TestReadyNowMeansNextDoesNotRead(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	body := "5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
	for cut := 0; cut <= len(body); cut++ {
		src := &blocked{data: head + body[:cut]}
		r := NewReader(src)
		var h header.Head
		if err := r.ReadResponse(&h, "GET"); err != nil {
			t.Fatal(err)
		}
		src.closed = true // from here on, reading is blocking
		for r.ReadyNow() && !r.Complete() {
			if _, _, err := r.Next(); err != nil {
				t.Fatalf("after %q: ReadyNow, but Next: %v", body[:cut], err)
			}
		}
		if cut == len(body) && !r.Complete() {
			t.Error("the whole body is here, and ReadyNow says it is not")
		}
	}
}

type blocked struct {
	data   string
	closed bool
}

func (b *blocked) Read(p []byte) (int, error) {
	if b.closed || b.data == "" {
		return 0, errors.New("read would block")
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}
