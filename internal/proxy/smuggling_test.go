package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// smuggled is one line of testdata/smuggling.txt.
type smuggled struct {
	line       int
	want, name string
	bytes      string
}

var repeated = regexp.MustCompile(`(?s)\{([^{}]*)\*(\d+)\}`)

func corpus(t testing.TB) []smuggled {
	t.Helper()
	text, err := os.ReadFile("testdata/smuggling.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []smuggled
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.SplitN(line, " | ", 3)
		if len(f) != 3 {
			t.Fatalf("line %d: not WANT | NAME | BYTES", i+1)
		}
		raw, err := strconv.Unquote(f[2])
		if err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		raw = repeated.ReplaceAllStringFunc(raw, func(s string) string {
			m := repeated.FindStringSubmatch(s)
			n, _ := strconv.Atoi(m[2])
			return strings.Repeat(m[1], n)
		})
		all = append(all, smuggled{i + 1, f[0], f[1], raw})
	}
	return all
}

// recorder is an upstream that writes down what arrives, byte by byte, and
// answers each request that net/http finds in it.
type recorder struct {
	net.Listener
	mu   sync.Mutex
	seen []*bytes.Buffer // by connection
	wg   sync.WaitGroup
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{Listener: l}
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.serve(c) })
		}
	})
	return r
}

func (r *recorder) serve(c net.Conn) {
	defer c.Close()
	seen := &bytes.Buffer{}
	r.mu.Lock()
	r.seen = append(r.seen, seen)
	r.mu.Unlock()
	br := bufio.NewReader(io.TeeReader(c, locked{r, seen}))
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return
		}
	}
}

type locked struct {
	r *recorder
	b *bytes.Buffer
}

func (l locked) Write(b []byte) (int, error) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.b.Write(b)
}

// arrived parses what came with net/http and returns the whole requests. What
// broke off does not count; it may even be from the case before. Bytes that are
// no request are an error.
func (r *recorder) arrived() (whole []*http.Request, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, seen := range r.seen {
		br := bufio.NewReader(bytes.NewReader(seen.Bytes()))
		for {
			req, err := http.ReadRequest(br)
			if err == io.EOF {
				break
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			switch _, err = io.Copy(io.Discard, req.Body); {
			case err == nil:
				whole = append(whole, req)
			case !errors.Is(err, io.ErrUnexpectedEOF):
				return nil, err
			}
		}
	}
	return whole, nil
}

func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.seen {
		b.Reset()
	}
}

// TestSmuggling sends every case to an outbound listener that forwards in
// cleartext, and looks at both ends.
func TestSmuggling(t *testing.T) {
	cases := corpus(t)
	if len(cases) < 150 {
		t.Errorf("the corpus has %d cases", len(cases))
	}
	upstream := newRecorder(t)
	m := newMesh(t, http.NotFoundHandler(), func(m *mesh) {
		m.snapA.Endpoints = []*ir.EndpointSet{{Cluster: "worker", Endpoints: []ir.Endpoint{{Address: upstream.Addr().String()}}}}
	})
	t.Cleanup(func() { upstream.Close() })
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			upstream.forget()
			got, ended := talk(t, strings.TrimPrefix(m.url, "http://"), c.bytes)
			whole, err := upstream.arrived()
			if err != nil {
				t.Fatalf("line %d: net/http cannot read what was forwarded: %v", c.line, err)
			}
			c.judge(t, got, ended, whole)
		})
	}
}

func (c *smuggled) judge(t *testing.T, got []int, ended bool, whole []*http.Request) {
	t.Helper()
	answered := 0
	for _, status := range got {
		if status == 200 {
			answered++
		}
	}
	for _, req := range whole {
		if strings.Contains(req.RequestURI, "smuggled") {
			t.Errorf("line %d: the smuggled request arrived", c.line)
		}
		for _, name := range []string{"Content-Length", "Transfer-Encoding", "Host", "Connection", "Authorization", "Te", "Upgrade", "Expect", "X-Forwarded-Client-Cert"} {
			if _, ok := req.Trailer[name]; ok {
				t.Errorf("line %d: %s arrived in a trailer", c.line, name)
			}
		}
	}
	if len(whole) != answered {
		t.Errorf("line %d: %d requests arrived, %d were answered 200 (%v)", c.line, len(whole), answered, got)
	}
	if c.want == "cut" {
		if len(got) != 1 || got[0]/100 != 4 || !ended {
			t.Errorf("line %d: answered %v, connection over: %v; want 4xx and an end", c.line, got, ended)
		}
		return
	}
	want := strings.Fields(c.want)
	ok := slices.EqualFunc(got, want, func(status int, want string) bool {
		return strconv.Itoa(status) == want || want == "4xx" && status/100 == 4
	})
	if !ok {
		t.Errorf("line %d: answered %v, want %s", c.line, got, c.want)
	}
	if last := want[len(want)-1]; last != "200" && !ended {
		t.Errorf("line %d: the connection goes on after %s", c.line, last)
	}
}

// talk sends raw and collects the statuses of all answers. ended: the proxy
// closed before we did.
func talk(t *testing.T, address, raw string) (statuses []int, ended bool) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(c, raw) // the proxy may close before it has read everything
	// A request we know the answer of would itself be one more; instead the
	// answers end when nothing comes for a while.
	br := bufio.NewReader(c)
	method := strings.SplitN(strings.TrimLeft(raw, "\r\n"), " ", 2)[0]
	for {
		c.SetReadDeadline(time.Now().Add(quietFor(statuses)))
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return statuses, !errors.Is(err, os.ErrDeadlineExceeded)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatalf("an answer breaks off: %v", err)
		}
		statuses = append(statuses, resp.StatusCode)
	}
}

// quietFor is how long no further answer makes the answers complete. An error
// must be followed by an end, which comes at once.
func quietFor(statuses []int) time.Duration {
	if len(statuses) > 0 && statuses[len(statuses)-1] == 200 {
		return 30 * time.Millisecond
	}
	return 5 * time.Second
}
